"""Gradient diversity in JAX: measured, used and shaped.

How much the gradients that are computed side by side differ, and what follows
from it, as `optax.GradientTransformation` under a named axis of workers:

  batch > grad > [ track ] > aggregate_by_* > [ momentum, adam ... ] > params
          per worker          the wire          common to all workers
"""

from gradiv import (
  per_example as per_example,
  scaling as scaling,
  staleness as staleness,
  weightings as weightings,
)
from gradiv._common.draws import DrawState as DrawState
from gradiv._common.groups import group_names as group_names
from gradiv._common.layout import (
  Layout as Layout,
  by_layer as by_layer,
)
from gradiv.aggregation import (
  AccumulateByAgreementState as AccumulateByAgreementState,
  AggregateByCoordinateState as AggregateByCoordinateState,
  AggregateByMeanState as AggregateByMeanState,
  AggregateState as AggregateState,
  accumulate_by_agreement as accumulate_by_agreement,
  aggregate_by_agreement as aggregate_by_agreement,
  aggregate_by_bulyan as aggregate_by_bulyan,
  aggregate_by_mean as aggregate_by_mean,
  aggregate_by_median as aggregate_by_median,
  aggregate_by_sign_agreement as aggregate_by_sign_agreement,
  aggregate_by_sign_dropout as aggregate_by_sign_dropout,
  aggregate_by_sign_majority as aggregate_by_sign_majority,
  aggregate_by_smooth_sign_agreement as aggregate_by_smooth_sign_agreement,
  aggregate_by_trimmed_mean as aggregate_by_trimmed_mean,
  aggregate_by_weights as aggregate_by_weights,
  as_aggregator as as_aggregator,
  combine as combine,
  gather_leaves as gather_leaves,
  pairwise_cosine as pairwise_cosine,
  skip_zero_updates as skip_zero_updates,
  slice_leaves as slice_leaves,
  worker_gram as worker_gram,
)
from gradiv.compression import (
  AggregateByLowRankState as AggregateByLowRankState,
  AggregateByQuantizedMeanState as AggregateByQuantizedMeanState,
  ErrorFeedbackState as ErrorFeedbackState,
  aggregate_by_low_rank as aggregate_by_low_rank,
  aggregate_by_quantized_mean as aggregate_by_quantized_mean,
  keep_signs as keep_signs,
  keep_top_k as keep_top_k,
  with_error_feedback as with_error_feedback,
)
from gradiv.decentralized import (
  MixByChocoState as MixByChocoState,
  MixByCorrectionState as MixByCorrectionState,
  MixByGossipState as MixByGossipState,
  MixByGradientTrackingState as MixByGradientTrackingState,
  MixByMomentumState as MixByMomentumState,
  MixByOuterStepState as MixByOuterStepState,
  MixByPushSumState as MixByPushSumState,
  MixByRelayState as MixByRelayState,
  consensus_distance as consensus_distance,
  diloco as diloco,
  local_sgd as local_sgd,
  mix as mix,
  mix_by_choco as mix_by_choco,
  mix_by_decentlam as mix_by_decentlam,
  mix_by_exact_diffusion as mix_by_exact_diffusion,
  mix_by_extra as mix_by_extra,
  mix_by_gossip as mix_by_gossip,
  mix_by_gradient_tracking as mix_by_gradient_tracking,
  mix_by_outer_step as mix_by_outer_step,
  mix_by_push_sum as mix_by_push_sum,
  mix_by_quasi_global_momentum as mix_by_quasi_global_momentum,
  mix_by_relay as mix_by_relay,
  mix_by_slow_momentum as mix_by_slow_momentum,
  topology as topology,
  tune_consensus_step as tune_consensus_step,
)
from gradiv.diversity.accumulating import (
  AccumulateMomentsState as AccumulateMomentsState,
  accumulate_moments as accumulate_moments,
)
from gradiv.diversity.estimates import (
  Estimate as Estimate,
  estimate as estimate,
)
from gradiv.diversity.intervals import Interval as Interval
from gradiv.diversity.metrics import (
  adascale_gain as adascale_gain,
  batch_penalty as batch_penalty,
  batch_size_bound as batch_size_bound,
  batch_size_bound_without_replacement as batch_size_bound_without_replacement,
  coherence as coherence,
  gradient_diversity as gradient_diversity,
  inverse_batch_size_bound as inverse_batch_size_bound,
  noise_scale as noise_scale,
  norm_test_batch_size as norm_test_batch_size,
  steps_factor as steps_factor,
)
from gradiv.diversity.moments import (
  Moments as Moments,
  merge_moments as merge_moments,
  worker_moments as worker_moments,
)
from gradiv.diversity.reading import (
  Reading as Reading,
  read_moments as read_moments,
)
from gradiv.diversity.tracking import (
  TrackMomentsState as TrackMomentsState,
  track_moments as track_moments,
)
from gradiv.per_example import (
  as_value_and_grad as as_value_and_grad,
  example_gram as example_gram,
  example_moments as example_moments,
  example_sq_norms as example_sq_norms,
  explain as explain,
)
from gradiv.perturbations import (
  drop_updates_batch_size_bound as drop_updates_batch_size_bound,
  langevin_noise_batch_size_bound as langevin_noise_batch_size_bound,
  quantize_updates as quantize_updates,
  quantized_batch_size_bound as quantized_batch_size_bound,
  quantized_sq_norm as quantized_sq_norm,
  stochastic_quantize as stochastic_quantize,
)
from gradiv.perturbations.dropping import (
  drop_connect as drop_connect,
  drop_updates as drop_updates,
)
from gradiv.perturbations.langevin import (
  add_langevin_noise as add_langevin_noise,
  langevin_stddev as langevin_stddev,
)
from gradiv.perturbations.preconditioning import (
  PreconditionLangevinState as PreconditionLangevinState,
  precondition_langevin as precondition_langevin,
)
from gradiv.scaling import (
  critical_batch_size as critical_batch_size,
  critical_delay as critical_delay,
)
from gradiv.staleness import (
  DelayUpdatesState as DelayUpdatesState,
  compensate_delay as compensate_delay,
  delay_updates as delay_updates,
  scale_by_staleness as scale_by_staleness,
)
from gradiv.workers import (
  AxisName as AxisName,
  as_private as as_private,
  map_workers as map_workers,
  replicate as replicate,
  worker_key as worker_key,
)
