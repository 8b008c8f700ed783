"""Gradient agreement filtering, as weights on the Gram matrix.

Gradients join a running aggregate one after the other; those that are too far
from it, by their cosine distance, are left out of the average. All inner
products that this needs are sums over the Gram matrix.

Chaubard et al., `Beyond Gradient Averaging in Parallel Optimization: Improved
Robustness through Gradient Agreement Filtering
<https://arxiv.org/abs/2412.18052>`_, 2024.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradiv._common import checks, counting
from gradiv.weightings import (
  _filter_passes,
  _numbers,
  joining,
  weighting,
)

# A cosine distance, or a schedule of it over the steps.
Threshold = (
  jax.typing.ArrayLike | Callable[[jax.Array], jax.typing.ArrayLike])
# The ways to combine gradients that agree.
COMBINE = ('running_mean', 'halving', 'first', 'leave_one_out')


class AgreementState(NamedTuple):
  """State of `agreement`.

  Attributes:
    count: Number of steps so far, int32, for a threshold that is a schedule.
    distances: The last `window` distances measured, newest last, [window];
      NaN before that many have been measured. () without a window.
  """

  count: jax.Array
  distances: Any


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
  num_stddevs: jax.typing.ArrayLike = 2.0,
) -> weighting.Weighting:
  """Average the gradients that agree in direction; leave out the others.

  Use it when labels are noisy or micro-batches small, so that some gradients
  point away from the rest: steps on which too few agree are skipped.
  `gradiv.aggregate_by_agreement` is this rule as an optax transformation.

  In order, g_i joins the aggregate m of those before it if its cosine distance
  1 − ⟨m, g_i⟩/(‖m‖‖g_i‖) is at most τ. The first gradient is the anchor. The
  published versions differ in how a gradient joins:

  * 'running_mean': m ← (c m + g_i)/(c + 1) with c gradients in m so far, as in
    the authors' distributed scripts.
  * 'halving': m ← (m + g_i)/2, as in the authors' package. The last gradient
    gets half of all weight, so the result counts for three gradients at most.
  * 'first': all are compared with the anchor; those that agree are averaged.
  * 'leave_one_out': g_i is compared with the sum of all others; those that
    agree are averaged. There is no order and no anchor.

  With two gradients all four are the same. A zero gradient has no direction
  and agrees with none.

  >>> gram = jnp.array([[1., .9, -.5], [.9, 1., -.2], [-.5, -.2, 1.]])
  >>> agreement(0.9)(gram).tolist()  # The third opposes the other two.
  [0.5, 0.5, 0.0]

  Args:
    max_cosine_distance: τ, from 0 (parallel, to 2e-7 of rounding) over 1
      (orthogonal) to 2 (all agree); or a schedule, a function of the step.
    combine: One of the four above.
    shuffle: Whether to take the gradients in random order; needs a key.
    num_anchors: Number of anchors to try, in order, until enough agree.
    min_agreed: Number of gradients that must agree, or else `fallback` is
      used. 2 in the paper.
    fallback: 'zero' for weights of zero, which skips the step as in the paper;
      the 'mean' of all; or the mean of the 'closest_pair'.
    count_aware: Whether to account for a mean of c gradients being less noisy
      than one, so that a fixed τ grows lenient as c grows. The limit becomes
      the distance expected from a mean of c gradients at the noise τ/(1 − τ):
      1 − κ √(c/(1 + (c − 1) κ)) with κ = 1 − τ. Nothing changes for τ ≥ 1.
    window: Number of past distances to adapt to. If positive, τ is at most
      their mean plus `num_stddevs` standard deviations.
    num_stddevs: See `window`.

  Returns:
    A weighting with an `AgreementState`.
  """
  _check(max_cosine_distance, combine, num_anchors, min_agreed, fallback,
         window, num_stddevs)
  num_stddevs = _numbers.as_float(num_stddevs)

  def step(gram, present, state, key):
    n = len(present)
    limit = _limit(max_cosine_distance, state, num_stddevs)
    allow = lambda squares: joining.allowed_distance(
      limit, squares, count_aware)
    order = jax.random.permutation(key, n) if shuffle else jnp.arange(n)
    if combine == 'leave_one_out':
      weights, size, distances = _filter_passes.leave_one_out(
        gram, present, allow)
    else:
      weights, size, distances = _filter_passes.try_anchors(
        gram, present, allow, combine, order, min(num_anchors, n), min_agreed)
    weights = jnp.where(
      size < min_agreed, _FALLBACKS[fallback](gram, present), weights)
    recent = _remember(state.distances, distances) if window else ()
    return weights, AgreementState(counting.increment(state.count), recent)

  def init(num_gradients):
    del num_gradients
    return AgreementState(
      jnp.zeros((), jnp.int32),
      jnp.full(window, jnp.nan, jnp.float32) if window else ())

  return weighting.Weighting(
    step, init, needs_key=shuffle, equal_pair=min_agreed > 1)


def _check(max_cosine_distance, combine, num_anchors, min_agreed, fallback,
           window, num_stddevs):
  if not callable(max_cosine_distance):
    checks.within('max_cosine_distance', max_cosine_distance, 0, 2, one=True)
  checks.choice('combine', combine, COMBINE)
  checks.choice('fallback', fallback, tuple(_FALLBACKS))
  checks.count('num_anchors', num_anchors, 1)
  checks.count('min_agreed', min_agreed, 1)
  checks.count('window', window, 0)
  checks.at_least('num_stddevs', num_stddevs, 0, one=True)
  if combine == 'leave_one_out' and num_anchors > 1:
    raise ValueError(f"num_anchors={num_anchors}: must be 1 with "
                     "combine='leave_one_out', which has no anchor")


def _limit(threshold, state, num_stddevs):
  """Return τ for this step, adapted to the distances in the window."""
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


def _remember(old, new):
  """Append distances to the window and drop the oldest."""
  seen = jnp.concatenate([old, new])
  # NaN goes first, where it is dropped first.
  seen = seen[jnp.argsort(~jnp.isnan(seen), stable=True)]
  return seen[len(seen) - len(old):]


_FALLBACKS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
  'zero': lambda gram, present: jnp.zeros_like(gram[0]),
  'mean': lambda gram, present: weighting.uniform(present),
  'closest_pair': _filter_passes.closest_pair,
}
