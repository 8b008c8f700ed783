"""Every transformation and metric in a training step, as a table of rows.

The plain step averages the gradients of the workers and takes a step of Adam.
Each row puts something in front of the mean, in its place, or around Adam.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import gradiv
from gradiv import (
  aggregation,
  compression,
  decentralized,
  diversity,
  perturbations,
  scaling,
  staleness,
  topology,
  weightings,
)

AXIS = 'workers'
NUM_WORKERS, BATCH_SIZE = 8, 4
RATE = 1e-3
KEY = jax.random.key(0)
RING = topology.ring(NUM_WORKERS)


@dataclasses.dataclass(frozen=True)
class Row:
  """A training step.

  Attributes:
    chain: Makes the optimizer: exchange of gradients included.
    about: The public functions that the row is about.
    metric: (gradients, optimizer's state, parameters) -> what is measured on
      the side.
    is_own: Whether each worker keeps parameters and state of its own.
    extra: (parameters, moments) -> arguments of the update, by name.
  """

  chain: Callable[[], optax.GradientTransformation]
  about: tuple[Callable, ...] = ()
  metric: Callable[[Any, Any, Any], Any] | None = None
  is_own: bool = False
  extra: Callable[[Any], dict[str, Any]] = lambda params: {}


def _mean():
  return gradiv.aggregate_by_mean(AXIS)


def _plain():
  return optax.chain(_mean(), optax.adam(RATE))


def _measured(about, metric):
  return Row(_plain, (about,), metric)


def _before(about, *args, is_own=False, **kwargs):
  """Put `about` in front of the mean."""
  return Row(lambda: optax.chain(about(*args, **kwargs), _plain()), (about,),
             is_own=is_own)


def _wire(about, *args, **kwargs):
  """Put `about` in place of the mean."""
  return Row(lambda: optax.chain(about(*args, **kwargs), optax.adam(RATE)),
             (about,))


def _weighed(weighting, **kwargs):
  return Row(lambda: optax.chain(
    gradiv.aggregate_by_weights(weighting, AXIS, **kwargs), optax.adam(RATE)),
    (gradiv.aggregate_by_weights,))


def _mixed(about, *args, **kwargs):
  """Let each worker step by itself, and then mix."""
  return Row(lambda: optax.chain(
    optax.adam(RATE), about(*args, axis_name=AXIS, **kwargs)), (about,),
    is_own=True)


def _tracked(**kwargs):
  return gradiv.track_moments(AXIS, batch_size=BATCH_SIZE, **kwargs)


def _sum_of_squares(grads, state, params):
  """Read each gradient once: no statistic of it costs less."""
  del state, params
  return sum(jnp.vdot(g, g) for g in jax.tree.leaves(grads))


def _with_adam_metric(grads, state, params):
  return gradiv.worker_moments(
    grads, AXIS, batch_size=BATCH_SIZE, params=params,
    metric=gradiv.adam_metric(state))


def _dual_norms(norm, ndims):
  return _measured(gradiv.worker_dual_norms, lambda grads, *_: (
    gradiv.worker_dual_norms(
      [g for g in jax.tree.leaves(grads) if g.ndim in ndims], AXIS,
      norm=norm, batch_size=BATCH_SIZE)))


MEASURE = {
  'sum of squares, alone': Row(_plain, (), _sum_of_squares),
  '`worker_moments`': _measured(gradiv.worker_moments, lambda grads, *_: (
    gradiv.worker_moments(grads, AXIS, batch_size=BATCH_SIZE))),
  '`worker_moments`, `adam_metric`': Row(
    _plain, (gradiv.worker_moments, gradiv.adam_metric), _with_adam_metric),
  '`track_moments`': Row(
    lambda: optax.chain(_tracked(), _plain()), (gradiv.track_moments,)),
  '`track_moments`, by layer': Row(
    lambda: optax.chain(_tracked(groups=gradiv.by_layer), _plain()),
    (gradiv.track_moments,)),
  '`accumulate_moments`, 4 micro-steps': Row(
    lambda: gradiv.accumulate_moments(4, _plain(), batch_size=BATCH_SIZE),
    (gradiv.accumulate_moments,)),
  '`pairwise_cosine(worker_gram)`': _measured(
    gradiv.worker_gram, lambda grads, *_: (
      gradiv.pairwise_cosine(gradiv.worker_gram(grads, AXIS)))),
  '`worker_dual_norms`, signs': _dual_norms('sign', (0, 1, 2)),
  '`worker_dual_norms`, spectral': _dual_norms('spectral', (2,)),
}

COMBINE = {
  '`aggregate_by_agreement`': _wire(gradiv.aggregate_by_agreement, 0.97, AXIS),
  '`accumulate_by_agreement`, 4 micro-steps': Row(
    lambda: optax.chain(
      _mean(), gradiv.accumulate_by_agreement(0.97, 4), optax.adam(RATE)),
    (gradiv.accumulate_by_agreement,)),
  '`skip_zero_updates`': Row(
    lambda: optax.chain(_mean(), gradiv.skip_zero_updates(optax.adam(RATE))),
    (gradiv.skip_zero_updates,)),
  '`krum`': _weighed(weightings.krum(2)),
  '`geometric_median`': _weighed(weightings.geometric_median()),
  '`upgrad`': _weighed(weightings.upgrad()),
  '`pcgrad`': _weighed(weightings.pcgrad(), key=KEY),
  '`with_alarm(mean)`': _weighed(
    weightings.with_alarm(weightings.mean()), num_workers=NUM_WORKERS),
  '`aggregate_by_median`': _wire(gradiv.aggregate_by_median, AXIS),
  '`aggregate_by_trimmed_mean`': _wire(
    gradiv.aggregate_by_trimmed_mean, 2, AXIS),
  '`aggregate_by_bulyan`': _wire(aggregation.aggregate_by_bulyan, 1, AXIS),
  '`aggregate_by_sign_agreement`': _wire(
    gradiv.aggregate_by_sign_agreement, 0.4, AXIS),
  '`aggregate_by_smooth_sign_agreement`': _wire(
    aggregation.aggregate_by_smooth_sign_agreement, 0.4, AXIS),
  '`aggregate_by_sign_majority`': _wire(
    aggregation.aggregate_by_sign_majority, AXIS),
  '`aggregate_by_sign_dropout`': _wire(
    aggregation.aggregate_by_sign_dropout, AXIS, key=KEY),
}

SEND = {
  **{f'`aggregate_by_quantized_mean`, {bits} bits': _wire(
    gradiv.aggregate_by_quantized_mean, bits, AXIS, key=KEY)
    for bits in (8, 4)},
  '`aggregate_by_low_rank`, rank 2': _wire(
    compression.aggregate_by_low_rank, 2, AXIS, key=KEY),
  '`with_error_feedback(keep_top_k)`': Row(
    lambda: optax.chain(gradiv.with_error_feedback(
      gradiv.keep_top_k(0.01)), _plain()),
    (gradiv.with_error_feedback, gradiv.keep_top_k), is_own=True),
  '`with_error_feedback(keep_signs)`': Row(
    lambda: optax.chain(gradiv.with_error_feedback(
      gradiv.keep_signs()), _plain()),
    (gradiv.with_error_feedback, gradiv.keep_signs), is_own=True),
}

RAISE = {
  '`drop_updates`': _before(gradiv.drop_updates, 0.5, axis_name=AXIS, key=KEY),
  '`add_langevin_noise`': _before(
    gradiv.add_langevin_noise, 1e-3, axis_name=AXIS, key=KEY),
  '`quantize_updates`': _before(
    gradiv.quantize_updates, 8, axis_name=AXIS, key=KEY),
  '`precondition_langevin`': Row(
    lambda: optax.chain(_mean(), perturbations.precondition_langevin(
      1e-3, key=KEY), optax.scale(-RATE)),
    (perturbations.precondition_langevin,)),
}

MIX = {
  '`mix_by_gossip`, ring': _mixed(gradiv.mix_by_gossip, RING),
  '`local_sgd`, every 8': _mixed(gradiv.local_sgd, 8),
  '`diloco`, every 8': _mixed(gradiv.diloco, 8),
  '`mix_by_slow_momentum`, every 8': _mixed(
    decentralized.mix_by_slow_momentum, 8, momentum=0.9),
  '`mix_by_outer_step`, every 8': _mixed(
    decentralized.mix_by_outer_step, optax.sgd(0.7), 8),
  '`mix_by_exact_diffusion`': _mixed(
    decentralized.mix_by_exact_diffusion, topology.lazy(RING)),
  '`mix_by_extra`': _mixed(decentralized.mix_by_extra, RING),
  '`mix_by_gradient_tracking`': _mixed(
    decentralized.mix_by_gradient_tracking, RING),
  '`mix_by_relay`': _mixed(
    decentralized.mix_by_relay, topology.chain(NUM_WORKERS)),
  '`mix_by_quasi_global_momentum`': _mixed(
    decentralized.mix_by_quasi_global_momentum, RING),
  '`mix_by_decentlam`': _mixed(decentralized.mix_by_decentlam, RING),
  '`mix_by_choco`, top 1 %': _mixed(
    decentralized.mix_by_choco, RING, compressor=gradiv.keep_top_k(0.01),
    consensus_step=0.1),
  '`mix_by_push_sum`': _mixed(decentralized.mix_by_push_sum, RING),
}

DELAY = {
  '`delay_updates`, 4 steps': _before(gradiv.delay_updates, 4, is_own=True),
  '`with_staleness`, `scale_by_staleness`': Row(
    lambda: optax.chain(_mean(), staleness.with_staleness(
      gradiv.delay_updates(4), optax.chain(
        staleness.scale_by_staleness(staleness.divide_by_staleness),
        optax.adam(RATE)))),
    (staleness.with_staleness, staleness.scale_by_staleness)),
  '`compensate_delay`': Row(
    lambda: optax.chain(
      staleness.compensate_delay(0.1), _mean(), optax.adam(RATE)),
    (staleness.compensate_delay,),
    extra=lambda params: {'stale_params': params}),
}


def _predicted():
  """Step by the rate that suits four times the batch."""
  return optax.chain(_mean(), scaling.scale_by_predicted_rate(
    gradiv.track_moments(), optax.adam(1.0), learning_rate=RATE,
    rule=lambda rate, estimate: scaling.online_rate(
      rate, estimate, reference_batch_size=1, batch_size=4)))


ACT = {
  '`scale_by_diversity`': Row(
    lambda: scaling.scale_by_diversity(
      _tracked(), _plain(), batch_size=BATCH_SIZE, scale=NUM_WORKERS),
    (gradiv.scale_by_diversity,)),
  '`scale_by_predicted_rate`': Row(
    _predicted, (scaling.scale_by_predicted_rate,),
    extra=lambda params: {'moments': diversity.Moments(8., 1., 3., 9.)}),
}

SECTIONS = {
  'measure': MEASURE, 'combine': COMBINE, 'send fewer bits': SEND,
  'raise diversity': RAISE, 'mix parameters': MIX, 'delay': DELAY, 'act': ACT}
PLAIN = Row(_plain, (gradiv.aggregate_by_mean,))
