"""Aggregation rules as optax transformations: the wire of a chain.

Under a named axis a rule takes each worker's gradient and gives every worker
the same one: the same tree in, the same tree out. Each rule leaves out workers
whose gradient is not finite, as if they were not there, and counts them.
"""

from gradiv.aggregation._coordinatewise import (
  AggregateByCoordinateState as AggregateByCoordinateState,
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
from gradiv.aggregation.rules import (
  aggregate_by_geometric_median as aggregate_by_geometric_median,
  aggregate_by_krum as aggregate_by_krum,
)
from gradiv.aggregation.sign_votes import (
  aggregate_by_sign_agreement as aggregate_by_sign_agreement,
  aggregate_by_sign_dropout as aggregate_by_sign_dropout,
  aggregate_by_sign_majority as aggregate_by_sign_majority,
  aggregate_by_smooth_sign_agreement as aggregate_by_smooth_sign_agreement,
)
from gradiv.aggregation.weighted import (
  AggregateState as AggregateState,
  aggregate_by_weights as aggregate_by_weights,
)
