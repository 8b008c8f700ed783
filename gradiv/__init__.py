"""Gradient diversity in JAX: measured, used and shaped.

How much the gradients that are computed side by side differ, and what follows
from it, as `optax.GradientTransformation` under a named axis of workers:

  batch > grad > [ track ] > aggregate_by_* > [ momentum, adam ... ] > params
          per worker          the wire          common to all workers
"""

from gradiv.aggregation import aggregate_by_mean as aggregate_by_mean
from gradiv.axes import AxisName as AxisName
from gradiv.axes import as_private as as_private
from gradiv.axes import map_workers as map_workers
from gradiv.axes import replicate as replicate
from gradiv.axes import worker_key as worker_key
from gradiv.confidence import Interval as Interval
from gradiv.metrics import Estimate as Estimate
from gradiv.metrics import adascale_gain as adascale_gain
from gradiv.metrics import batch_penalty as batch_penalty
from gradiv.metrics import batch_size_bound as batch_size_bound
from gradiv.metrics import (
  bound_without_replacement as bound_without_replacement,
)
from gradiv.metrics import coherence as coherence
from gradiv.metrics import estimate as estimate
from gradiv.metrics import gradient_diversity as gradient_diversity
from gradiv.metrics import inverse_batch_size_bound as inverse_batch_size_bound
from gradiv.metrics import noise_scale as noise_scale
from gradiv.metrics import norm_test_batch_size as norm_test_batch_size
from gradiv.metrics import steps_factor as steps_factor
from gradiv.moments import Moments as Moments
from gradiv.moments import by_layer as by_layer
from gradiv.moments import merge_moments as merge_moments
from gradiv.moments import worker_moments as worker_moments
from gradiv.tracking import TrackMomentsState as TrackMomentsState
from gradiv.tracking import track_moments as track_moments
