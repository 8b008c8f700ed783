"""Gradient agreement filtering, as weights on the Gram matrix.

Chaubard, Eddy, Kochenderfer, `Beyond Gradient Averaging in Parallel
Optimization: Improved Robustness through Gradient Agreement Filtering
<https://arxiv.org/abs/2412.18052>`_, 2024: gradients join a running aggregate
one after the other, and those too far from it, by their cosine distance, are
left out of the average. All that the pass needs is in the Gram matrix.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gradiv._common import checks
from gradiv.weightings import core

Threshold = float | Callable[[jax.Array], jax.typing.ArrayLike]
COMBINE = ('running_mean', 'halving', 'first', 'leave_one_out')
FALLBACK = ('zero', 'mean', 'closest_pair')


class AgreementState(NamedTuple):
  """State of `agreement`.

  Attributes:
    count: Steps so far, for a threshold that is a schedule.
    distances: The last distances measured, [window], newest last and NaN at
      first; () without a window.
  """

  count: jax.Array
  distances: jax.Array | tuple[()]


def agreement(
  max_cosine_distance: Threshold,
  *,
  combine: str = 'running_mean',
  shuffle: bool = False,
  num_anchors: int = 1,
  min_agreed: int = 2,
  fallback: str = 'zero',
  count_aware: bool = False,
  window: int = 0,
  num_stddevs: float = 2.0,
) -> core.Weighting:
  """Leave gradients that disagree out of the average.

  In order, g_i joins the aggregate m of those before it, if its distance
  1 − ⟨m, g_i⟩/(‖m‖‖g_i‖) is at most τ. The first is the anchor. What "joins"
  means differs between the versions in circulation:

  * 'running_mean': m ← (c m + g_i)/(c + 1). The authors' distributed scripts.
  * 'halving': m ← (m + g_i)/2. Their package; the last gradient has half of
    all weight, so the result never counts for more than three gradients.
  * 'first': all are compared with the anchor; the mean of those that agree.
  * 'leave_one_out': g_i is compared with the sum of all others; the mean of
    those that agree. No order, no anchor.

  With two gradients they are all the same. A gradient of zero has no
  direction and agrees with none.

  >>> gram = jnp.array([[1., .9, -.5], [.9, 1., -.2], [-.5, -.2, 1.]])
  >>> agreement(0.9)(gram).tolist()
  [0.5, 0.5, 0.0]

  Args:
    max_cosine_distance: τ, from 0 (parallel, to 2e-7 of rounding) over 1
      (orthogonal) to 2 (all agree); or a schedule, a function of the step.
    combine: One of the four.
    shuffle: Take the gradients in random order; needs a key.
    num_anchors: Try so many anchors, in order, until one finds agreement.
    min_agreed: How many must agree; else `fallback`. Two in the paper.
    fallback: All weights 'zero' (the paper: skip the step), the 'mean' of all,
      or the mean of the 'closest_pair'.
    count_aware: A mean of c gradients is less noisy than one, so a fixed τ
      grows lax as c grows. This compares with what a mean of c gradients at
      noise τ/(1 − τ) would show: 1 − κ √(c/(1 + (c − 1) κ)) with κ = 1 − τ.
      No change for τ ≥ 1.
    window: Where positive, τ is at most mean + `num_stddevs` standard
      deviations of the last so many distances.
    num_stddevs: See `window`.

  Raises:
    ValueError: On a bad argument.
  """
  check_threshold(max_cosine_distance)
  _check(combine, num_anchors, min_agreed, fallback, window, num_stddevs)

  def step(gram, present, state, key):
    n = len(present)
    limit = _limit(max_cosine_distance, state, num_stddevs)
    allow = lambda squares: allowed_distance(limit, squares, count_aware)
    order = jax.random.permutation(key, n) if shuffle else jnp.arange(n)
    if combine == 'leave_one_out':
      weights, size, distances = _leave_one_out(gram, present, allow)
    else:
      weights, size, distances = _try_anchors(
        gram, present, allow, combine, order, min(num_anchors, n), min_agreed)
    weights = jnp.where(
      size < min_agreed, _FALLBACKS[fallback](gram, present), weights)
    return weights, AgreementState(
      state.count + 1, _remember(state.distances, distances))

  def init(num_gradients):
    del num_gradients
    return AgreementState(
      jnp.zeros((), jnp.int32),
      jnp.full(window, jnp.nan, jnp.float32) if window else ())

  return core.Weighting(
    step, init, needs_key=shuffle, equal_pair=min_agreed > 1)


def cosine_distance(
  dot: jax.Array, sq_norm: jax.Array, other_sq_norm: jax.Array
) -> jax.Array:
  """Compute 1 − x·y/(‖x‖‖y‖), in [0, 2]; NaN where x or y is zero.

  >>> cosine_distance(jnp.float32(3.), jnp.float32(4.), jnp.float32(9.))
  Array(0.5, dtype=float32)
  """
  return 1 - jnp.clip(dot / jnp.sqrt(sq_norm) / jnp.sqrt(other_sq_norm), -1, 1)


def allowed_distance(
  limit: jax.Array, sum_squares: jax.typing.ArrayLike, count_aware: bool
) -> jax.Array:
  """Tell how far a gradient may be from Σ a_i g_i; see `agreement`.

  Args:
    limit: τ.
    sum_squares: Σ a_i²; its inverse is how many gradients the sum counts for.
    count_aware: Whether that matters.
  """
  if not count_aware:
    return limit
  count = 1 / sum_squares
  cosine = jnp.maximum(1 - limit, 0)
  scaled = cosine * jnp.sqrt(count / (1 + (count - 1) * cosine))
  return jnp.where(limit < 1, 1 - scaled, limit)


def next_shares(combine: str, size: jax.Array) -> tuple:
  """Tell how the aggregate of `size` gradients takes one more: m, g shares."""
  size = size.astype(jnp.float32)
  if combine == 'halving':
    # The first gradient is the aggregate.
    return jnp.where(size > 0, 0.5, 0.), jnp.where(size > 0, 0.5, 1.)
  return size / (size + 1), 1 / (size + 1)


def check_threshold(max_cosine_distance: Threshold) -> None:
  """Raise ValueError on a distance that is not one."""
  if not callable(max_cosine_distance) and not isinstance(
      max_cosine_distance, jax.Array):
    checks.within('max_cosine_distance', max_cosine_distance, 0, 2)


def _check(combine, num_anchors, min_agreed, fallback, window, num_stddevs):
  checks.choice('combine', combine, COMBINE)
  checks.choice('fallback', fallback, FALLBACK)
  checks.count('num_anchors', num_anchors, 1)
  checks.count('min_agreed', min_agreed, 1)
  checks.count('window', window, 0)
  checks.within('num_stddevs', num_stddevs, 0, float('inf'))
  if combine == 'leave_one_out' and num_anchors > 1:
    raise ValueError(f"num_anchors={num_anchors}: must be 1 with "
                     "combine='leave_one_out', which has no anchor")


def _remember(known, distances):
  """Append distances to the last ones known, and keep as many as before."""
  if isinstance(known, tuple):
    return known
  seen = jnp.concatenate([known, distances])
  # Those that were not measured come first, to be dropped first.
  seen = seen[jnp.argsort(~jnp.isnan(seen), stable=True)]
  return seen[len(seen) - len(known):]


def _limit(threshold, state, num_stddevs):
  limit = threshold(state.count) if callable(threshold) else threshold
  limit = jnp.asarray(limit, jnp.float32)
  if isinstance(state.distances, tuple):
    return limit
  known = jnp.isfinite(state.distances)
  count = known.sum()
  mean = jnp.where(known, state.distances, 0).sum() / jnp.maximum(count, 1)
  square = jnp.where(known, (state.distances - mean)**2, 0).sum()
  stddev = jnp.sqrt(square / jnp.maximum(count - 1, 1))
  return jnp.where(
    count > 1, jnp.minimum(limit, mean + num_stddevs * stddev), limit)


def _try_anchors(gram, present, allow, combine, order, num_anchors, least):
  """Pass through the gradients, with one anchor after the other."""
  # Those that are absent last, so that the first is an anchor.
  order = order[jnp.argsort(~present[order], stable=True)]
  pass_from = lambda order: _pass(gram, present, allow, combine, order)
  if num_anchors == 1:
    return pass_from(order)
  places = jnp.arange(len(order))

  def anchored(a):
    return order[jnp.where(places == 0, a,
                           places - (places <= a).astype(places.dtype))]

  passes = jax.vmap(lambda a: pass_from(anchored(a)))(jnp.arange(num_anchors))
  first = jnp.argmax(passes[1] >= least)
  return jax.tree.map(lambda x: x[first], passes)


def _pass(gram, present, allow, combine, order):
  """One pass in order: weights, how many agreed, and the distances."""
  unit = jnp.eye(len(gram), dtype=gram.dtype)

  def join(carry, i):
    reference, weights, size = carry
    # Elementwise: a product of matrices may run in reduced precision.
    dots = jnp.sum(gram * reference[None, :], 1)
    distance = cosine_distance(
      dots[i], jnp.sum(reference * dots), gram[i, i])
    allowed = allow(jnp.sum(reference**2))
    # A gradient of zero is no anchor: all would disagree with it.
    able = present[i] & (gram[i, i] > 0)
    agrees = able & ((size == 0) | (distance <= allowed))
    keep, share = next_shares(combine, size)
    joined = keep * weights + share * unit[i]
    weights = jnp.where(agrees, joined, weights)
    fixed = (combine == 'first') & (size > 0)
    reference = jnp.where(fixed, reference, weights)
    measured = jnp.where(present[i] & (size > 0), distance, jnp.nan)
    return (reference, weights, size + agrees), measured

  none = jnp.zeros_like(gram[0])
  carry = none, none, jnp.zeros_like(present[0], jnp.int32)
  (_, weights, size), distances = lax.scan(join, carry, order)
  return weights, size, distances


def _leave_one_out(gram, present, allow):
  squares = jnp.diagonal(gram)
  # g_i·Σ_{j≠i} g_j, and the square of that sum; differences would cancel.
  others = 1 - jnp.eye(len(gram), dtype=gram.dtype)
  dots = jnp.sum(others * gram, 1)
  rest = jnp.einsum('ij,jk,ik->i', others, gram, others,
                    precision=lax.Precision.HIGHEST)
  distance = cosine_distance(dots, rest, squares)
  count = jnp.maximum(present.sum() - 1, 1).astype(jnp.float32)
  agrees = present & (distance <= allow(1 / count))
  distance = jnp.where(present, distance, jnp.nan)
  return core.uniform(agrees), agrees.sum(), distance


def _closest_pair(gram, present):
  squares = jnp.diagonal(gram)
  distance = cosine_distance(gram, squares[:, None], squares[None, :])
  pairs = present[:, None] & present[None, :] & ~jnp.eye(len(gram), dtype=bool)
  distance = jnp.where(pairs & jnp.isfinite(distance), distance, jnp.inf)
  i, j = jnp.unravel_index(jnp.argmin(distance), distance.shape)
  places = jnp.arange(len(gram))
  pair = (places == i) | (places == j)
  return jnp.where(jnp.isfinite(distance.min()), core.uniform(pair), 0)


_FALLBACKS: dict[str, Callable[..., Any]] = {
  'zero': lambda gram, present: jnp.zeros_like(gram[0]),
  'mean': lambda gram, present: core.uniform(present),
  'closest_pair': _closest_pair,
}
