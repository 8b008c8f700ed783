"""Gradient diversity in JAX: measured, used and shaped.

How much the gradients that are computed side by side differ, and what follows
from it, as `optax.GradientTransformation` under a named axis of workers:

  batch > grad > [ track ] > aggregate_by_* > [ momentum, adam ... ] > params
          per worker          the wire          common to all workers
"""

from gradiv import examples as examples
from gradiv import scaling as scaling
from gradiv import staleness as staleness
from gradiv import topology as topology
from gradiv import weightings as weightings
from gradiv.aggregation import (
  AggregateByCoordinateState as AggregateByCoordinateState,
)
from gradiv.aggregation import AggregateByMeanState as AggregateByMeanState
from gradiv.aggregation import AggregateState as AggregateState
from gradiv.aggregation import aggregate_by_bulyan as aggregate_by_bulyan
from gradiv.aggregation import (
  aggregate_by_geometric_median as aggregate_by_geometric_median,
)
from gradiv.aggregation import aggregate_by_krum as aggregate_by_krum
from gradiv.aggregation import aggregate_by_mean as aggregate_by_mean
from gradiv.aggregation import aggregate_by_median as aggregate_by_median
from gradiv.aggregation import (
  aggregate_by_sign_agreement as aggregate_by_sign_agreement,
)
from gradiv.aggregation import (
  aggregate_by_sign_dropout as aggregate_by_sign_dropout,
)
from gradiv.aggregation import (
  aggregate_by_sign_majority as aggregate_by_sign_majority,
)
from gradiv.aggregation import (
  aggregate_by_smooth_sign_agreement as aggregate_by_smooth_sign_agreement,
)
from gradiv.aggregation import (
  aggregate_by_trimmed_mean as aggregate_by_trimmed_mean,
)
from gradiv.aggregation import aggregate_by_weights as aggregate_by_weights
from gradiv.aggregation import as_aggregator as as_aggregator
from gradiv.agreement import (
  AccumulateByAgreementState as AccumulateByAgreementState,
)
from gradiv.agreement import accumulate_by_agreement as accumulate_by_agreement
from gradiv.agreement import aggregate_by_agreement as aggregate_by_agreement
from gradiv.agreement import skip_zero_updates as skip_zero_updates
from gradiv.axes import AxisName as AxisName
from gradiv.axes import as_private as as_private
from gradiv.axes import map_workers as map_workers
from gradiv.axes import replicate as replicate
from gradiv.axes import worker_key as worker_key
from gradiv.confidence import Interval as Interval
from gradiv.draws import DrawState as DrawState
from gradiv.dropconnect import drop_connect as drop_connect
from gradiv.dropconnect import drop_updates as drop_updates
from gradiv.examples import as_value_and_grad as as_value_and_grad
from gradiv.examples import example_gram as example_gram
from gradiv.examples import example_moments as example_moments
from gradiv.examples import example_sq_norms as example_sq_norms
from gradiv.examples import explain as explain
from gradiv.gossip import ChocoState as ChocoState
from gradiv.gossip import CorrectedState as CorrectedState
from gradiv.gossip import MixByGossipState as MixByGossipState
from gradiv.gossip import OuterStepState as OuterStepState
from gradiv.gossip import PushSumState as PushSumState
from gradiv.gossip import MixByMomentumState as MixByMomentumState
from gradiv.gossip import RelayState as RelayState
from gradiv.gossip import TrackGradientsState as TrackGradientsState
from gradiv.gossip import consensus_distance as consensus_distance
from gradiv.gossip import diloco as diloco
from gradiv.gossip import local_sgd as local_sgd
from gradiv.gossip import mix as mix
from gradiv.gossip import mix_by_choco as mix_by_choco
from gradiv.gossip import mix_by_decentlam as mix_by_decentlam
from gradiv.gossip import mix_by_exact_diffusion as mix_by_exact_diffusion
from gradiv.gossip import mix_by_extra as mix_by_extra
from gradiv.gossip import mix_by_gossip as mix_by_gossip
from gradiv.gossip import mix_by_outer_step as mix_by_outer_step
from gradiv.gossip import mix_by_push_sum as mix_by_push_sum
from gradiv.gossip import (
  mix_by_quasi_global_momentum as mix_by_quasi_global_momentum,
)
from gradiv.gossip import mix_by_relay as mix_by_relay
from gradiv.gossip import slow_momentum as slow_momentum
from gradiv.gossip import track_gradients as track_gradients
from gradiv.gossip import tune_consensus_step as tune_consensus_step
from gradiv.gram import combine as combine
from gradiv.gram import pairwise_cosine as pairwise_cosine
from gradiv.gram import worker_gram as worker_gram
from gradiv.langevin import (
  PreconditionLangevinState as PreconditionLangevinState,
)
from gradiv.langevin import add_langevin_noise as add_langevin_noise
from gradiv.langevin import langevin_stddev as langevin_stddev
from gradiv.langevin import precondition_langevin as precondition_langevin
from gradiv.metrics import Estimate as Estimate
from gradiv.metrics import adascale_gain as adascale_gain
from gradiv.metrics import batch_penalty as batch_penalty
from gradiv.metrics import batch_size_bound as batch_size_bound
from gradiv.metrics import (
  bound_without_replacement as bound_without_replacement,
)
from gradiv.metrics import coherence as coherence
from gradiv.metrics import drop_updates_bound as drop_updates_bound
from gradiv.metrics import estimate as estimate
from gradiv.metrics import gradient_diversity as gradient_diversity
from gradiv.metrics import inverse_batch_size_bound as inverse_batch_size_bound
from gradiv.metrics import langevin_noise_bound as langevin_noise_bound
from gradiv.metrics import noise_scale as noise_scale
from gradiv.metrics import norm_test_batch_size as norm_test_batch_size
from gradiv.metrics import quantized_bound as quantized_bound
from gradiv.metrics import steps_factor as steps_factor
from gradiv.moments import Moments as Moments
from gradiv.moments import by_layer as by_layer
from gradiv.moments import merge_moments as merge_moments
from gradiv.moments import worker_moments as worker_moments
from gradiv.quantization import (
  AggregateByLowRankState as AggregateByLowRankState,
)
from gradiv.quantization import (
  AggregateByQuantizedMeanState as AggregateByQuantizedMeanState,
)
from gradiv.quantization import ErrorFeedbackState as ErrorFeedbackState
from gradiv.quantization import aggregate_by_low_rank as aggregate_by_low_rank
from gradiv.quantization import (
  aggregate_by_quantized_mean as aggregate_by_quantized_mean,
)
from gradiv.quantization import keep_signs as keep_signs
from gradiv.quantization import keep_top_k as keep_top_k
from gradiv.quantization import quantize_updates as quantize_updates
from gradiv.quantization import quantized_sq_norm as quantized_sq_norm
from gradiv.quantization import stochastic_quantize as stochastic_quantize
from gradiv.quantization import with_error_feedback as with_error_feedback
from gradiv.scaling import critical_batch_size as critical_batch_size
from gradiv.scaling import critical_delay as critical_delay
from gradiv.slices import gather_leaves as gather_leaves
from gradiv.slices import slice_leaves as slice_leaves
from gradiv.staleness import DelayUpdatesState as DelayUpdatesState
from gradiv.staleness import compensate_delay as compensate_delay
from gradiv.staleness import delay_updates as delay_updates
from gradiv.staleness import scale_by_staleness as scale_by_staleness
from gradiv.tracking import TrackMomentsState as TrackMomentsState
from gradiv.tracking import track_moments as track_moments
from gradiv.wire import Wire as Wire
