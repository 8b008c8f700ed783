"""What `gradient_diversity` tracks along a training: two estimates of B_S.

One is of the workers' gradients, as `gradiv.track_moments` sees them in any
training; one of the gradients of all single examples in the same batch. Both
are averaged alike.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

import gradiv
from gradiv.diversity import intervals


class Measured(NamedTuple):
  """What a worker hands to the optimizer in place of its gradient.

  Attributes:
    grads: The gradient, the mean over the worker's examples.
    moments: Of the gradients of these examples.
  """

  grads: Any
  moments: gradiv.Moments


class TrackExamplesState(NamedTuple):
  """The running sums of `track_examples`."""

  example_averages: intervals.Averages


def pool(within: gradiv.Moments, between: gradiv.Moments,
         axis_name: gradiv.AxisName) -> gradiv.Moments:
  """Make `Moments` over the examples of all workers, for one more scalar.

  The mean square deviation of examples is that of the workers' means plus the
  mean of those within each worker, who hold equally many.
  """
  return gradiv.Moments(
    num_gradients=between.num_gradients * within.num_gradients,
    batch_size=within.batch_size,
    sq_norm_of_mean=between.sq_norm_of_mean,
    mean_sq_deviation=between.mean_sq_deviation + lax.pmean(
      within.mean_sq_deviation, axis_name))


def track_examples(
  axis_name: gradiv.AxisName, *, decay: float
) -> optax.GradientTransformation:
  """Average what single examples say, by `Measured`; hand on its gradient.

  A step whose statistics are not finite is left out, as `track_moments` does.
  """
  def init_fn(params):
    del params
    return TrackExamplesState(intervals.init())

  def update_fn(updates, state, params=None):
    del params
    grads, within = updates
    between = gradiv.worker_moments(grads, axis_name)
    sample = gradiv.estimate(pool(within, between, axis_name))
    new = intervals.update(state.example_averages, sample, decay)
    finite = jnp.isfinite(sample.sq_norm + sample.variance)
    return grads, TrackExamplesState(jax.tree.map(
      lambda x, y: jnp.where(finite, x, y), new, state.example_averages))

  return optax.GradientTransformation(init_fn, update_fn)


def make_optimizer(lane, config, *, track: bool, axis_name):
  """Build plain SGD on the mean of the workers, tracked where asked."""
  # Batches smaller than the workers are still split; only tracking needs b.
  tracking = [
    track_examples(axis_name, decay=config.decay),
    gradiv.track_moments(
      axis_name, batch_size=config.reference_batch_size / config.num_workers,
      decay=config.decay)] if track else []
  return optax.chain(*tracking, gradiv.aggregate_by_mean(axis_name),
                     optax.sgd(lane['learning_rate']))


def read(opt_state, *, decay: float) -> dict:
  """Flatten what is tracked into numbers to record."""
  averages = optax.tree.get(opt_state, 'example_averages')
  return {
    **_flatten(optax.tree.get(opt_state, 'estimate'),
               optax.tree.get(opt_state, 'interval')),
    'num_skipped': optax.tree.get(opt_state, 'num_skipped'),
    **{f'example_{name}': x for name, x in _flatten(
      intervals.average(averages),
      intervals.interval(averages, decay)).items()},
  }


def _flatten(estimate, interval):
  return {
    'sq_norm': estimate.sq_norm,
    'variance': estimate.variance,
    'inverse_low': gradiv.inverse_batch_size_bound(interval.upper),
    'inverse_high': gradiv.inverse_batch_size_bound(interval.lower),
    'trusted': interval.trusted,
  }
