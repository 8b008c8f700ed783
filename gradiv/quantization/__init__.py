"""Fewer bits: stochastic rounding, the wire in 8 or 4, error feedback."""

from gradiv.quantization.compressors import keep_signs as keep_signs
from gradiv.quantization.compressors import keep_top_k as keep_top_k
from gradiv.quantization.feedback import (
  ErrorFeedbackState as ErrorFeedbackState,
)
from gradiv.quantization.feedback import (
  with_error_feedback as with_error_feedback,
)
from gradiv.quantization.levels import METHODS as METHODS
from gradiv.quantization.levels import quantize_updates as quantize_updates
from gradiv.quantization.levels import quantized_sq_norm as quantized_sq_norm
from gradiv.quantization.levels import (
  stochastic_quantize as stochastic_quantize,
)
from gradiv.quantization.low_rank import (
  AggregateByLowRankState as AggregateByLowRankState,
)
from gradiv.quantization.low_rank import (
  aggregate_by_low_rank as aggregate_by_low_rank,
)
from gradiv.quantization.mean import (
  AggregateByQuantizedMeanState as AggregateByQuantizedMeanState,
)
from gradiv.quantization.mean import (
  aggregate_by_quantized_mean as aggregate_by_quantized_mean,
)
