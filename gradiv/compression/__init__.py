"""Communicate gradients in fewer bits.

`aggregate_by_quantized_mean` and `aggregate_by_low_rank` replace the mean of
the workers: the first sends 8 or 4 bits per number, without bias; the second
sends two thin matrices per weight matrix, as PowerSGD does. `keep_top_k` and
`keep_signs` compress one worker's gradient in front of the mean.

All except the quantized mean are biased. Wrap them in `with_error_feedback`,
which sends the part that was left out later.
"""

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
from gradiv.compression.signs import keep_signs as keep_signs
from gradiv.compression.top_k import keep_top_k as keep_top_k
