"""Aggregation rules, which replace the mean of gradients in an optax chain.

Under a named axis, a rule maps each worker's gradient to one update that is
the same on all workers: the same tree in, the same tree out.

  mean, weighted              the average; any weights decided from inner
                              products, as in `gradiv.weightings`
  agreement, skipping         gradient agreement filtering, and the optimizer
                              that skips rejected steps
  order_statistics, sign_votes   rules that decide coordinate by coordinate
  gram, zero_redundancy       the parts, for rules and optimizers by hand

Every rule leaves out workers whose gradient is not finite, as if they were not
there, and counts them.
"""

from gradiv.aggregation.agreement import (
  aggregate_by_agreement as aggregate_by_agreement,
)
from gradiv.aggregation.agreement_over_steps import (
  AccumulateByAgreementState as AccumulateByAgreementState,
  accumulate_by_agreement as accumulate_by_agreement,
)
from gradiv.aggregation.coordinatewise import (
  AggregateByCoordinateState as AggregateByCoordinateState,
)
from gradiv.aggregation.gram import (
  combine as combine,
  pairwise_cosine as pairwise_cosine,
  worker_gram as worker_gram,
)
from gradiv.aggregation.leading_axis import as_aggregator as as_aggregator
from gradiv.aggregation.mean import (
  AggregateByMeanState as AggregateByMeanState,
  aggregate_by_mean as aggregate_by_mean,
)
from gradiv.aggregation.order_statistics import (
  aggregate_by_bulyan as aggregate_by_bulyan,
  aggregate_by_median as aggregate_by_median,
  aggregate_by_trimmed_mean as aggregate_by_trimmed_mean,
)
from gradiv.aggregation.sign_votes import (
  aggregate_by_sign_agreement as aggregate_by_sign_agreement,
  aggregate_by_sign_dropout as aggregate_by_sign_dropout,
  aggregate_by_sign_majority as aggregate_by_sign_majority,
  aggregate_by_smooth_sign_agreement as aggregate_by_smooth_sign_agreement,
)
from gradiv.aggregation.skipping import skip_zero_updates as skip_zero_updates
from gradiv.aggregation.weighted import (
  AggregateState as AggregateState,
  aggregate_by_weights as aggregate_by_weights,
)
from gradiv.aggregation.zero_redundancy import (
  gather_leaves as gather_leaves,
  slice_leaves as slice_leaves,
)
