"""The geometric median, by Weiszfeld's method on the Gram matrix."""

import jax
import jax.numpy as jnp
from jax import lax

from gradiv._common import checks
from gradiv.weightings import _numbers, geometry, weighting

# Stop once no weight moves by more than this fraction of itself.
_TOLERANCE = 1e-5
# Below any distance, once the longest gradient has length one.
_TINY = 1e-19


def geometric_median(
  num_steps: int = 100, smoothing: jax.typing.ArrayLike = 1e-3
) -> weighting.Weighting:
  """Find the point with the smallest sum of distances to all gradients.

  Use it when an unknown minority of the workers, of fewer than n/2, may send
  arbitrary gradients. Unlike `krum` it needs no estimate of how many.

  z = argmin_z Σ ‖g_i − z‖, by Weiszfeld's iteration w_i ∝ 1/max(ν, ‖g_i − z‖),
  z = Σ w_i g_i. It begins at the mean of the densest half, which no minority
  can move far. If the minimum is not unique (n = 2, or even n on one line), it
  finds one of them.

  >>> gram = jnp.array([[0., 0., 0.], [0., 1., 9.], [0., 9., 81.]])
  >>> geometric_median()(gram).round(2).tolist()  # Of 0, 1 and 9: the median.
  [0.0, 1.0, 0.0]

  Args:
    num_steps: Largest number of iterations. They end early once no weight
      moves by more than 1e-5 of itself.
    smoothing: ν, as a fraction of the radius of the smallest ball around a
      gradient that holds more than half of them. If z comes closer than ν to a
      gradient, it stays there, up to ν beside it.

  Pillutla et al., `Robust Aggregation for Federated Learning
  <https://arxiv.org/abs/1912.13445>`_, 2019.
  """
  checks.count('num_steps', num_steps, 1)
  checks.positive('smoothing', smoothing, one=True)
  smoothing = _numbers.as_float(smoothing)

  def weigh(gram, present):
    gram = geometry.normalized(gram)
    start, radius = _densest_half(geometry.sq_distances(gram), present)
    floor = jnp.maximum(smoothing * radius, _TINY)

    def step(carry):
      weights, _, count = carry
      pull = 1 / jnp.maximum(geometry.distances_to(gram, weights), floor)
      pull = jnp.where(present, pull, 0)
      new = pull / jnp.maximum(pull.sum(), _TINY)
      moved = (jnp.abs(new - weights) > _TOLERANCE * new).any()
      return new, moved, count + 1

    # Computed from `start`, so that under shard_map both vary alike.
    carry = start, start[0] >= 0, 0
    return lax.while_loop(lambda c: c[1] & (c[2] < num_steps), step, carry)[0]

  return weighting.stateless(weigh, of_differences=True)


def _densest_half(squares, present):
  """Weigh the smallest ball around a gradient that holds more than half."""
  pairs = present[:, None] & present[None, :]
  squares = jnp.where(pairs, squares, jnp.inf)
  radii = jnp.take(jnp.sort(squares, axis=1), present.sum() // 2, axis=1)
  inside = present & (squares[radii.argmin()] <= radii.min())
  return weighting.uniform(inside), jnp.sqrt(radii.min())
