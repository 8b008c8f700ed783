"""What `gradient_diversity` tracks along a training: two estimates of B_S.

One is of the workers' gradients, as `gradiv.track_moments` sees them in any
training; one of the gradients of all single examples in the same batch. Both
are averaged alike.
"""

from typing import Any, NamedTuple

import optax
from jax import lax

import gradiv


class Measured(NamedTuple):
  """What a worker hands to the optimizer in place of its gradient.

  Attributes:
    grads: The gradient, the mean over the worker's examples.
    moments: Of the gradients of these examples.
  """

  grads: Any
  moments: gradiv.Moments


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

  A step whose statistics are not finite is left out, as in `track_moments`.
  """
  track = gradiv.track_moments(decay=decay)

  def update_fn(updates, state, params=None):
    grads, within = updates
    between = gradiv.worker_moments(grads, axis_name)
    return track.update(
      grads, state, params, moments=pool(within, between, axis_name))

  return optax.GradientTransformation(track.init, update_fn)


def plain_sgd(lane, axis_name) -> optax.GradientTransformation:
  """Build plain SGD on the mean gradient of the workers."""
  return optax.chain(
    gradiv.aggregate_by_mean(axis_name), optax.sgd(lane['rate']))


def tracked_sgd(lane, config, batch_size: int, axis_name
                ) -> optax.GradientTransformation:
  """Build plain SGD that tracks the moments of examples and of workers."""
  size = batch_size / config.num_workers
  return optax.chain(
    track_examples(axis_name, decay=config.decay),
    gradiv.track_moments(axis_name, batch_size=size, decay=config.decay),
    plain_sgd(lane, axis_name))


def of_workers(opt_state) -> gradiv.diversity.TrackMomentsState:
  """Find what the workers track, as in any training: all advice is from it."""
  return opt_state[1]


def read(opt_state) -> dict:
  """Flatten what is tracked into numbers to record.

  The averages, and the estimates of the last step alone.
  """
  examples, workers = opt_state[0], of_workers(opt_state)
  return {
    **_flatten(workers), 'num_skipped': workers.num_skipped,
    **{f'example_{name}': x for name, x in _flatten(examples).items()}}


def _flatten(state):
  reading = gradiv.read_moments(state)
  step = zip(('step_sq_norm', 'step_variance'), reading.last)
  return {**reading.average._asdict(), **dict(step)}
