"""Gradient accumulation that also measures how much the micro-steps differ.

The micro-steps of gradient accumulation are a sample of gradients like any
other. Their `Moments` need one pass and the memory of one gradient, because
two samples merge exactly: each new gradient is a sample of one.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv._common import checks, compat, counting, stateful, trees
from gradiv.diversity import _metric
from gradiv.diversity.moments import Moments, merge_moments

Scalar = jax.typing.ArrayLike


class AccumulateMomentsState(NamedTuple):
  """State of `accumulate_moments`.

  A round is one pass over `num_micro_steps` gradients.

  Attributes:
    micro_step: int32, number of gradients seen in this round.
    ready: Whether the last update completed a round.
    num_left_out: int32, number of gradients left out so far because they were
      not finite.
    moments: `Moments` of the last completed round; NaN before the first.
    running: `Moments` of this round so far.
    mean: Mean gradient of this round so far, in at least float32.
    inner: State of the inner transformation.
  """

  micro_step: jax.Array
  ready: jax.Array
  num_left_out: jax.Array
  moments: Moments
  running: Moments
  mean: Any
  inner: Any


def accumulate_moments(
  num_micro_steps: int,
  inner: optax.GradientTransformation | None = None,
  *,
  batch_size: Scalar = 1,
) -> optax.GradientTransformationExtraArgs:
  """Average gradients over micro-steps, and compute their `Moments`.

  Use it in place of `optax.MultiSteps`. The update is zero until the last of
  `num_micro_steps`. Then it is that of `inner` for the mean gradient, and
  `inner` is given the moments as the extra argument ``moments``, which
  `track_moments` accepts. Between, `inner` is not run.

  Without `inner`, the update of the last micro-step is the mean gradient: wrap
  the optimizer that follows in `skip_zero_updates`, and read
  ``state.moments``.

  Gradients that are not finite are left out and counted. If all of a round
  are, its mean is zero and its moments are NaN. As in `worker_moments`, the
  deviation is summed around the mean, without cancellation.

  ``update`` accepts ``metric`` as an extra argument, the weights of a norm as
  in `worker_moments`; they must not change within a round. Those of
  `adam_metric` do not: the Adam in `inner` only steps at the end of a round.

  Args:
    num_micro_steps: Number of gradients in a round.
    inner: Transformation to apply to the mean gradient of each round.
    batch_size: Number of examples behind one micro-step's gradient. If they
      differ, pass ``batch_size`` to ``update`` as an extra argument: the mean
      is then weighted.

  Raises:
    ValueError: At construction, if `num_micro_steps` is not a whole number of
      at least 1, `batch_size` is not positive, or `inner` is no
      transformation; in ``update``, if a leaf is of integers.

  >>> import gradiv
  >>> tx = accumulate_moments(
  ...   2, optax.chain(gradiv.track_moments(), optax.sgd(1.)), batch_size=4)
  >>> state = tx.init(jnp.zeros(1))
  >>> update, state = tx.update(jnp.array([1.]), state)
  >>> update.tolist()  # the first of two micro-steps
  [0.0]
  >>> update, state = tx.update(jnp.array([3.]), state)
  >>> update.tolist()
  [-2.0]
  >>> float(state.moments.mean_sq_deviation)  # each is at distance 1 from it
  1.0
  >>> float(gradiv.read_moments(state).estimate.variance)  # 1·4·2/(2 − 1)
  8.0
  """
  checks.count('num_micro_steps', num_micro_steps, 1)
  checks.positive('batch_size', batch_size, one=True)
  inner = checks.transformation(
    'inner', optax.identity() if inner is None else inner)

  def init_fn(params):
    return AccumulateMomentsState(
      micro_step=jnp.zeros((), jnp.int32),
      ready=jnp.zeros((), bool),
      num_left_out=jnp.zeros((), jnp.int32),
      moments=_filled(jnp.nan),
      running=_filled(0),
      mean=trees.zeros_wide(params),
      inner=inner.init(params))

  def update_fn(updates, state, params=None, *, batch_size=batch_size,
                metric=None, **extra_args):
    trees.check_floating(updates, or_complex=True)
    is_first = state.micro_step == 0
    running, mean = trees.keep_if(~is_first, (state.running, state.mean))
    (running, mean), is_finite = _add(
      running, mean, updates, batch_size, _metric.roots_of(metric, updates))
    ends = state.micro_step + 1 == num_micro_steps
    some = running.num_gradients > 0
    finished = jax.tree.map(lambda x: jnp.where(some, x, jnp.nan), running)

    def finish():
      grads = jax.tree.map(lambda m, g: m.astype(g.dtype), mean, updates)
      return inner.update(
        grads, state.inner, params, moments=finished, **extra_args)

    result, inner_state = _run_if(ends, finish, state.inner)
    return result, AccumulateMomentsState(
      micro_step=jnp.where(ends, 0, state.micro_step + 1),
      ready=ends,
      num_left_out=counting.increment(state.num_left_out, ~is_finite),
      moments=trees.select(ends, finished, state.moments),
      running=running,
      mean=mean,
      inner=inner_state)

  return stateful.transformation(
    init_fn, update_fn, AccumulateMomentsState, like_params=('mean',))


def _filled(value) -> Moments:
  return Moments(*(jnp.full((), value, jnp.float32) for _ in Moments._fields))


def _add(running, mean, updates, batch_size, roots):
  """Add one gradient to the moments and the mean, unless it is not finite."""
  square = trees.sq_norm(updates)
  is_finite = trees.is_usable(square)
  if roots:
    square = _metric.sq_norm(updates, roots)
  g = trees.widen(trees.keep_if(is_finite, updates))
  gap = jax.tree.map(lambda x, m: x - m, g, mean)
  seen = running.num_gradients * running.batch_size
  fraction = batch_size / (seen + batch_size)
  new_mean = jax.tree.map(
    lambda m, d: m + fraction.astype(m.dtype) * d, mean, gap)
  one = jnp.float32(1)
  merged = merge_moments(
    running, Moments(one, one * batch_size, square, jnp.float32(0)),
    sq_distance=_metric.sq_norm(gap, roots))
  # The merged ‖ḡ‖² would cancel where gradients do.
  merged = merged._replace(
    sq_norm_of_mean=_metric.sq_norm(new_mean, roots))
  merged = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), merged)
  kept = trees.select(is_finite, (merged, new_mean), (running, mean))
  return kept, is_finite


def _run_if(ends, finish, inner_state):
  """Run the inner transformation at the end of a round, else do nothing.

  A cond, so that an aggregation inside of it communicates once per round. All
  workers take the same branch, because they count the same micro-steps.
  """
  result, new_state = jax.eval_shape(finish)

  def wait():
    zeros = jax.tree.map(compat.zeros_like, result)
    return zeros, jax.tree.map(_typed_as, inner_state, new_state)

  def run():
    updates, state = finish()
    return updates, jax.tree.map(_typed_as, state, inner_state)

  return lax.cond(ends, run, wait)


def _typed_as(x, other):
  """Type `x` as varying over the axes of `other`, too: branches must agree."""
  for axis in sorted(compat.varying_axes(other) - compat.varying_axes(x)):
    x = compat.to_varying(x, axis)
  return x
