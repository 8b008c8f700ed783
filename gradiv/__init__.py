"""Measure, use and shape gradient diversity in JAX.

How much do gradients that are computed side by side differ, and what follows
from it? Everything here is an `optax.GradientTransformation` under a named axis
of workers, or a plain function. A chain reads in the order in which the data
flows:

  batch > grad > [ track · drop · quantize · noise · delay ] > aggregate_by_*
          per worker                                           the exchange
        > [ clip · momentum · adam ] > params
          common to all workers

Workers          map_workers, worker_key, replicate, resize_workers, as_private,
                 Layout, by_layer, group_names
Measure          worker_moments, accumulate_moments, merge_moments, estimate,
                 gradient_diversity, noise_scale, batch_size_bound,
                 inverse_batch_size_bound, steps_factor, adascale_gain,
                 norm_test_batch_size, worker_gram, pairwise_cosine
  over steps     track_moments, read_moments, advise
  in clusters    nested_moments, worker_nested_moments, nested_estimate
  for Adam       adam_metric; worker_dual_norms for sign descent and Muon
  per example    example_moments, example_sq_norms, example_gram,
                 loss_gram, as_value_and_grad, explain
Combine          aggregate_by_mean, aggregate_by_weights (with a rule of
                 gradiv.weightings), aggregate_by_agreement,
                 accumulate_by_agreement, aggregate_by_median,
                 aggregate_by_trimmed_mean, aggregate_by_sign_agreement,
                 skip_zero_updates
Send fewer bits  aggregate_by_quantized_mean, with_error_feedback,
                 keep_top_k, keep_signs
Raise diversity  drop_updates, drop_connect, add_langevin_noise,
                 langevin_stddev, quantize_updates, stochastic_quantize
Decentralized    mix, mix_by_gossip (over a graph of gradiv.topology),
                 consensus_distance, local_sgd, diloco
Stale            delay_updates
Predict          critical_batch_size, critical_delay
Act              scale_by_diversity (AdaScale), and in gradiv.scaling the
                 controllers of the batch size
Plain jit        gradiv.meshes: chains and statistics over sharded arrays

The submodules hold more: aggregation, compression, decentralized, diversity,
meshes, per_example, perturbations, scaling, staleness, topology, weightings.
"""

from gradiv import (
  aggregation as aggregation,
  compression as compression,
  decentralized as decentralized,
  diversity as diversity,
  meshes as meshes,
  per_example as per_example,
  perturbations as perturbations,
  scaling as scaling,
  staleness as staleness,
  weightings as weightings,
)
from gradiv._common.groups import group_names as group_names
from gradiv._common.layout import Layout as Layout, by_layer as by_layer
from gradiv.aggregation import (
  accumulate_by_agreement as accumulate_by_agreement,
  aggregate_by_agreement as aggregate_by_agreement,
  aggregate_by_mean as aggregate_by_mean,
  aggregate_by_median as aggregate_by_median,
  aggregate_by_sign_agreement as aggregate_by_sign_agreement,
  aggregate_by_trimmed_mean as aggregate_by_trimmed_mean,
  aggregate_by_weights as aggregate_by_weights,
  pairwise_cosine as pairwise_cosine,
  skip_zero_updates as skip_zero_updates,
  worker_gram as worker_gram,
)
from gradiv.compression import (
  aggregate_by_quantized_mean as aggregate_by_quantized_mean,
  keep_signs as keep_signs,
  keep_top_k as keep_top_k,
  with_error_feedback as with_error_feedback,
)
from gradiv.decentralized import (
  consensus_distance as consensus_distance,
  diloco as diloco,
  local_sgd as local_sgd,
  mix as mix,
  mix_by_gossip as mix_by_gossip,
  topology as topology,
)
from gradiv.diversity import (
  Estimate as Estimate,
  Interval as Interval,
  Moments as Moments,
  Reading as Reading,
  accumulate_moments as accumulate_moments,
  adam_metric as adam_metric,
  adascale_gain as adascale_gain,
  advise as advise,
  batch_size_bound as batch_size_bound,
  estimate as estimate,
  gradient_diversity as gradient_diversity,
  inverse_batch_size_bound as inverse_batch_size_bound,
  merge_moments as merge_moments,
  nested_estimate as nested_estimate,
  nested_moments as nested_moments,
  noise_scale as noise_scale,
  norm_test_batch_size as norm_test_batch_size,
  read_moments as read_moments,
  steps_factor as steps_factor,
  track_moments as track_moments,
  worker_dual_norms as worker_dual_norms,
  worker_moments as worker_moments,
  worker_nested_moments as worker_nested_moments,
)
from gradiv.per_example import (
  as_value_and_grad as as_value_and_grad,
  example_gram as example_gram,
  example_moments as example_moments,
  example_sq_norms as example_sq_norms,
  explain as explain,
  loss_gram as loss_gram,
)
from gradiv.perturbations import (
  add_langevin_noise as add_langevin_noise,
  drop_connect as drop_connect,
  drop_updates as drop_updates,
  langevin_stddev as langevin_stddev,
  quantize_updates as quantize_updates,
  stochastic_quantize as stochastic_quantize,
)
from gradiv.resizing import resize_workers as resize_workers
from gradiv.scaling import (
  critical_batch_size as critical_batch_size,
  critical_delay as critical_delay,
  scale_by_diversity as scale_by_diversity,
)
from gradiv.staleness import delay_updates as delay_updates
from gradiv.workers import (
  AxisName as AxisName,
  as_private as as_private,
  map_workers as map_workers,
  replicate as replicate,
  worker_key as worker_key,
)

__version__ = '0.1.0'
