"""Fewer bits: stochastic rounding, the wire in 8 or 4, error feedback."""

from gradiv.compression.compressors import (
  keep_signs as keep_signs,
  keep_top_k as keep_top_k,
)
from gradiv.compression.error_feedback import (
  ErrorFeedbackState as ErrorFeedbackState,
  with_error_feedback as with_error_feedback,
)
from gradiv.compression.low_rank import (
  AggregateByLowRankState as AggregateByLowRankState,
  aggregate_by_low_rank as aggregate_by_low_rank,
)
from gradiv.compression.quantized_mean import (
  AggregateByQuantizedMeanState as AggregateByQuantizedMeanState,
  aggregate_by_quantized_mean as aggregate_by_quantized_mean,
)
