"""Every transformation and metric of workers in a training step, by kind."""

import jax
import jax.numpy as jnp
import optax

import gradiv
from experiments.overhead.chains import (
  AXIS,
  BATCH_SIZE,
  NUM_WORKERS,
  RATE,
  Row,
  before,
  mean,
  measured,
  mixed,
  plain,
  weighed,
  wire,
)
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

RING = topology.ring(NUM_WORKERS)


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
  return measured(gradiv.worker_dual_norms, lambda grads, *_: (
    gradiv.worker_dual_norms(
      [g for g in jax.tree.leaves(grads) if g.ndim in ndims], AXIS,
      norm=norm, batch_size=BATCH_SIZE)))


MEASURE = {
  'sum of squares, alone': Row(plain, (), _sum_of_squares),
  '`worker_moments`': measured(gradiv.worker_moments, lambda grads, *_: (
    gradiv.worker_moments(grads, AXIS, batch_size=BATCH_SIZE))),
  '`worker_moments`, `adam_metric`': Row(
    plain, (gradiv.worker_moments, gradiv.adam_metric), _with_adam_metric),
  '`track_moments`': Row(
    lambda: optax.chain(_tracked(), plain()), (gradiv.track_moments,)),
  '`track_moments`, by layer': Row(
    lambda: optax.chain(_tracked(groups=gradiv.by_layer), plain()),
    (gradiv.track_moments,)),
  '`accumulate_moments`, 4 micro-steps': Row(
    lambda: gradiv.accumulate_moments(4, plain(), batch_size=BATCH_SIZE),
    (gradiv.accumulate_moments,)),
  '`pairwise_cosine(worker_gram)`': measured(
    gradiv.worker_gram, lambda grads, *_: (
      gradiv.pairwise_cosine(gradiv.worker_gram(grads, AXIS)))),
  '`worker_dual_norms`, signs': _dual_norms('sign', (0, 1, 2)),
  '`worker_dual_norms`, spectral': _dual_norms('spectral', (2,)),
}

COMBINE = {
  '`aggregate_by_agreement`': wire(gradiv.aggregate_by_agreement, 0.97, AXIS),
  '`accumulate_by_agreement`, 4 micro-steps': Row(
    lambda: optax.chain(
      mean(), gradiv.accumulate_by_agreement(0.97, 4), optax.adam(RATE)),
    (gradiv.accumulate_by_agreement,)),
  '`skip_zero_updates`': Row(
    lambda: optax.chain(mean(), gradiv.skip_zero_updates(optax.adam(RATE))),
    (gradiv.skip_zero_updates,)),
  '`krum`': weighed(weightings.krum(2)),
  '`geometric_median`': weighed(weightings.geometric_median()),
  '`upgrad`': weighed(weightings.upgrad()),
  '`pcgrad`': weighed(weightings.pcgrad(), is_drawn=True),
  '`with_alarm(mean)`': weighed(
    weightings.with_alarm(weightings.mean()), num_workers=NUM_WORKERS),
  '`aggregate_by_median`': wire(gradiv.aggregate_by_median, AXIS),
  '`aggregate_by_trimmed_mean`': wire(
    gradiv.aggregate_by_trimmed_mean, 2, AXIS),
  '`aggregate_by_bulyan`': wire(aggregation.aggregate_by_bulyan, 1, AXIS),
  '`aggregate_by_sign_agreement`': wire(
    gradiv.aggregate_by_sign_agreement, 0.4, AXIS),
  '`aggregate_by_smooth_sign_agreement`': wire(
    aggregation.aggregate_by_smooth_sign_agreement, 0.4, AXIS),
  '`aggregate_by_sign_majority`': wire(
    aggregation.aggregate_by_sign_majority, AXIS),
  '`aggregate_by_sign_dropout`': wire(
    aggregation.aggregate_by_sign_dropout, AXIS, is_drawn=True),
}

SEND = {
  **{f'`aggregate_by_quantized_mean`, {bits} bits': wire(
    gradiv.aggregate_by_quantized_mean, bits, AXIS, is_drawn=True)
    for bits in (8, 4)},
  '`aggregate_by_low_rank`, rank 2': wire(
    compression.aggregate_by_low_rank, 2, AXIS, is_drawn=True),
  '`with_error_feedback(keep_top_k)`': Row(
    lambda: optax.chain(gradiv.with_error_feedback(
      gradiv.keep_top_k(0.01)), plain()),
    (gradiv.with_error_feedback, gradiv.keep_top_k), is_own=True),
  '`with_error_feedback(keep_signs)`': Row(
    lambda: optax.chain(gradiv.with_error_feedback(
      gradiv.keep_signs()), plain()),
    (gradiv.with_error_feedback, gradiv.keep_signs), is_own=True),
}

RAISE = {
  '`drop_updates`': before(
    gradiv.drop_updates, 0.5, axis_name=AXIS, is_drawn=True),
  '`add_langevin_noise`': before(
    gradiv.add_langevin_noise, 1e-3, axis_name=AXIS, is_drawn=True),
  '`quantize_updates`': before(
    gradiv.quantize_updates, 8, axis_name=AXIS, is_drawn=True),
  '`precondition_langevin`': Row(
    lambda: optax.chain(mean(), perturbations.precondition_langevin(
      1e-3, key=jax.random.key(0)), optax.scale(-RATE)),
    (perturbations.precondition_langevin,)),
}

MIX = {
  '`mix_by_gossip`, ring': mixed(gradiv.mix_by_gossip, RING),
  '`local_sgd`, every 8': mixed(gradiv.local_sgd, 8),
  '`diloco`, every 8': mixed(gradiv.diloco, 8),
  '`mix_by_slow_momentum`, every 8': mixed(
    decentralized.mix_by_slow_momentum, 8, momentum=0.9),
  '`mix_by_outer_step`, every 8': mixed(
    decentralized.mix_by_outer_step, optax.sgd(0.7), 8),
  '`mix_by_exact_diffusion`': mixed(
    decentralized.mix_by_exact_diffusion, topology.lazy(RING)),
  '`mix_by_extra`': mixed(decentralized.mix_by_extra, RING),
  '`mix_by_gradient_tracking`': mixed(
    decentralized.mix_by_gradient_tracking, RING),
  '`mix_by_relay`': mixed(
    decentralized.mix_by_relay, topology.chain(NUM_WORKERS)),
  '`mix_by_quasi_global_momentum`': mixed(
    decentralized.mix_by_quasi_global_momentum, RING),
  '`mix_by_decentlam`': mixed(decentralized.mix_by_decentlam, RING),
  '`mix_by_choco`, top 1 %': mixed(
    decentralized.mix_by_choco, RING, compressor=gradiv.keep_top_k(0.01),
    consensus_step=0.1),
  '`mix_by_push_sum`': mixed(decentralized.mix_by_push_sum, RING),
}

DELAY = {
  '`delay_updates`, 4 steps': before(gradiv.delay_updates, 4, is_own=True),
  '`with_staleness`, `scale_by_staleness`': Row(
    lambda: optax.chain(mean(), staleness.with_staleness(
      gradiv.delay_updates(4), optax.chain(
        staleness.scale_by_staleness(staleness.divide_by_staleness),
        optax.adam(RATE)))),
    (staleness.with_staleness, staleness.scale_by_staleness)),
  '`compensate_delay`': Row(
    lambda: optax.chain(
      staleness.compensate_delay(0.1), mean(), optax.adam(RATE)),
    (staleness.compensate_delay,),
    extra=lambda params: {'stale_params': params}),
}


def _predicted():
  """Step by the rate that suits four times the batch."""
  return optax.chain(mean(), scaling.scale_by_predicted_rate(
    gradiv.track_moments(), optax.adam(1.0), learning_rate=RATE,
    rule=lambda rate, estimate: scaling.online_rate(
      rate, estimate, reference_batch_size=1, batch_size=4)))


ACT = {
  '`scale_by_diversity`': Row(
    lambda: scaling.scale_by_diversity(
      _tracked(), plain(), batch_size=BATCH_SIZE, scale=NUM_WORKERS),
    (gradiv.scale_by_diversity,)),
  '`scale_by_predicted_rate`': Row(
    _predicted, (scaling.scale_by_predicted_rate,),
    extra=lambda params: {'moments': diversity.Moments(8., 1., 3., 9.)}),
}

SECTIONS = {
  'measure': MEASURE, 'combine': COMBINE, 'send fewer bits': SEND,
  'raise diversity': RAISE, 'mix parameters': MIX, 'delay': DELAY, 'act': ACT}
PLAIN = Row(plain, (gradiv.aggregate_by_mean,))
