"""AdaScale: longer steps where the gradients of a large batch differ more."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradiv._common import (
  checks,
  counting,
  groups as groups_lib,
  stateful,
  trees,
)
from gradiv._common.layout import Grouping
from gradiv.diversity import adascale_gain, read_moments

Scalar = jax.typing.ArrayLike
# Of a `gradiv.Reading`.
FIELDS = ('estimate', 'average')


class ScaleByDiversityState(NamedTuple):
  """State of `scale_by_diversity`.

  Attributes:
    num_steps: int32, number of steps with a positive gain.
    progress: float32, the scale-invariant step count τ: the sum of the gains.
    gain: float32, the gain of the last step, of the whole gradient.
    moments: State of the tracker, for `gradiv.read_moments`.
    inner: State of the inner transformation.
  """

  num_steps: jax.Array
  progress: jax.Array
  gain: jax.Array
  moments: Any
  inner: Any


def scale_by_diversity(
  track: optax.GradientTransformation,
  inner: optax.GradientTransformation,
  *,
  batch_size: Scalar,
  scale: Scalar,
  learning_rate: Scalar | optax.Schedule | None = None,
  min_gain: Scalar = 1.,
  max_gain: Scalar | None = None,
  end: Scalar | None = None,
  power: Scalar = 1.,
  field: str = 'estimate',
  groups: Grouping | None = None,
  precondition: Callable[[Any, optax.Updates], optax.Updates] | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Multiply the updates of `inner` by the AdaScale gain r in [1, scale].

  Use it to train on batches that are `scale` times larger with the learning
  rate and the schedule of the small batch. One step is then worth r small
  steps: the step count τ grows by r, and the schedule is read at τ. The gain is

    r = (G + S/b) / (G + S/(scale · b)),

  with G = ‖∇F‖² and S = tr Σ as the tracker averages them over steps, this one
  included. It is 1 where all gradients agree, and before anything is known, and
  `scale` where they have no common part. It multiplies what comes out of
  `inner`: a momentum in there stays unscaled.

  The tracker sees the gradients of the workers, before `inner` averages them,
  or the extra argument ``moments`` of ``update``: of the examples of a batch or
  of the micro-steps of `accumulate_moments`. ``update`` takes ``scale`` as an
  extra argument as well, for batches that change.

  Args:
    track: `gradiv.track_moments`, with all of its options.
    inner: The optimizer without its learning rate, such as a chain of
      `gradiv.aggregate_by_mean` and `optax.trace`.
    batch_size: Batch size b of the small batch, in examples.
    scale: Factor by which the batch of a step is larger, such as the number of
      workers; at least 1.
    learning_rate: Learning rate of the small batch, or a schedule of it, which
      is given τ, a real number. The update is then to be added to the
      parameters, as after `optax.scale_by_learning_rate`. None multiplies by
      the gain alone and keeps the sign.
    min_gain: Smallest gain. If it equals `max_gain`, the gain is fixed: at 1
      there is no scaling, at `scale` it is the linear rule.
    max_gain: Largest gain.
    end: Number of scale-invariant steps to take. The last gain is cut to end
      there; later updates are zero.
    power: The updates are multiplied by the gain to this power, and τ still
      grows by the gain: 1 for SGD, 0.5 for Adam, whose rate follows the root of
      the batch size.
    field: Field of the `gradiv.Reading` that the gain is computed from:
      'estimate', or 'average' for the exponential average, as in the paper.
    groups: The grouping of the tracker, such as `gradiv.by_layer`. Each group
      is then multiplied by its own gain; τ grows by that of the whole gradient,
      which lies between the smallest and the largest of theirs.
    precondition: Function from the state of `inner` and the gradient to the
      gradient that the tracker sees, such as `precondition_like_adam`.

  Raises:
    ValueError: At construction, of a wrong number; at ``init``, if `track` is
      not a tracker, or `groups` is not what it has.

  Johnson, Agrawal, Gu, Guestrin, `AdaScale SGD: A User-Friendly Algorithm for
  Distributed Training <https://arxiv.org/abs/2007.05105>`_, 2020. The exponent
  1/2 and the statistics for Adam are those of AdaptDL, petuum/adaptdl.

  >>> import gradiv
  >>> tx = scale_by_diversity(
  ...   gradiv.track_moments('workers', batch_size=1),
  ...   gradiv.aggregate_by_mean('workers'), batch_size=1, scale=2,
  ...   learning_rate=.5)
  >>> step = gradiv.map_workers(lambda g, s: tx.update(g, s), 'workers',
  ...                           in_axes=(0, None), out_axes=None)
  >>> update, state = step(jnp.array([[1.], [3.]]), tx.init(jnp.zeros(1)))
  >>> round(float(state.gain), 3)  # G = 3, S = 2: (3 + 2) / (3 + 2/2)
  1.25
  >>> update.tolist()  # −0.5 · 1.25 · 2
  [-1.25]
  """
  _check(batch_size, scale, learning_rate, min_gain, max_gain, end, power)
  checks.choice('field', field, FIELDS)
  track = checks.transformation('track', track)
  inner = checks.transformation('inner', inner)

  def init_fn(params):
    moments = track.init(params)
    has_groups = jax.eval_shape(read_moments, moments).whole is not None
    if has_groups != (groups is not None):
      raise ValueError(f'groups={groups!r}: must be that of track_moments')
    return ScaleByDiversityState(
      num_steps=jnp.zeros((), jnp.int32),
      progress=jnp.zeros((), jnp.float32),
      gain=jnp.ones((), jnp.float32),
      moments=moments,
      inner=inner.init(params))

  def update_fn(updates, state, params=None, *, scale=scale, **extra_args):
    trees.check_floating(updates, or_complex=True)
    seen = updates
    if precondition is not None:
      seen = precondition(state.inner, updates)
    _, moments = track.update(seen, state.moments, params, **extra_args)
    updates, inner_state = inner.update(
      updates, state.inner, params, **extra_args)
    gain, whole = _gains(
      moments, field, batch_size, scale, (min_gain, max_gain))
    gain, whole, progress = _advance(gain, whole, state.progress, end)
    factor = _factor(gain, power, learning_rate, state.progress)
    return _multiply(updates, factor, groups), ScaleByDiversityState(
      num_steps=counting.increment(state.num_steps, whole > 0),
      progress=progress, gain=whole, moments=moments, inner=inner_state)

  return stateful.transformation(init_fn, update_fn, ScaleByDiversityState)


def _check(batch_size, scale, learning_rate, min_gain, max_gain, end, power):
  checks.at_least('scale', scale, 1, one=True)
  checks.positive('batch_size', batch_size, one=True)
  checks.at_least('min_gain', min_gain, 0, one=True)
  checks.at_least('power', power, 0, one=True)
  if learning_rate is not None and not callable(learning_rate):
    checks.at_least('learning_rate', learning_rate, 0, one=True)
  for name, value in (('max_gain', max_gain), ('end', end)):
    if value is not None:
      checks.positive(name, value, one=True)


def _gains(moments, field, batch_size, scale, bounds):
  """Return the gain, or that of each group, and the gain of the whole."""
  def gain_of(reading):
    gain = adascale_gain(
      getattr(reading, field), batch_size=batch_size, scale=scale)
    gain = jnp.clip(jnp.where(jnp.isnan(gain), 1., gain), *bounds)
    return gain.astype(jnp.float32)

  reading = read_moments(moments)
  gain = gain_of(reading)
  return gain, gain if reading.whole is None else gain_of(reading.whole)


def _advance(gain, whole, progress, end):
  """Move τ by the gain of the whole; cut the gains where it reaches the end."""
  if end is None:
    return gain, whole, progress + whole
  left = end - progress
  cut = jnp.minimum(whole, left)
  progress = jnp.where(cut < left, progress + cut, end).astype(jnp.float32)
  return cut if gain is whole else gain * (cut / whole), cut, progress


def _factor(gain, power, learning_rate, progress):
  exact = isinstance(power, int | float) and power == 1
  factor = gain if exact else gain ** power
  if learning_rate is None:
    return factor
  rate = learning_rate(progress) if callable(learning_rate) else learning_rate
  return -factor * rate


def _multiply(updates, factor, groups):
  leaves, treedef = jax.tree.flatten(updates)
  factors = [factor] * len(leaves) if groups is None else [
    factor[k] for k in groups_lib.members(updates, groups)]
  return treedef.unflatten(map(trees.times, factors, leaves))
