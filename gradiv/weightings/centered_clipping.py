"""Centered clipping: a bounded pull from each gradient on the last update."""

import jax
import jax.numpy as jnp
from jax import lax

from gradiv._common import checks
from gradiv.weightings import _numbers, geometry, weighting


def centered_clipping(
  radius: jax.typing.ArrayLike, num_steps: int = 1
) -> weighting.Weighting:
  """Move from the last aggregate toward the gradients, by a bounded pull each.

  Use it when bad workers may coordinate over time, together with momentum on
  each worker, which makes honest gradients concentrate. A bad gradient moves
  the result by at most τ/n per step.

  v ← v + (1/n) Σ (g_i − v) min(1, τ/‖g_i − v‖). It begins at the extra row,
  which is the last update unless `gradiv.aggregate_by_weights` is given
  another one; its weight comes last.

  >>> # Gradients of length 4 and 1; v begins at zero.
  >>> centered_clipping(1.)(jnp.diag(jnp.array([16., 1., 0.]))).tolist()
  [0.125, 0.5, 0.375]

  Args:
    radius: τ, positive and finite, in units of the gradients.
    num_steps: Number of steps.

  Karimireddy et al., `Learning from History for Byzantine Robust Optimization
  <https://arxiv.org/abs/2012.10333>`_, 2021.
  """
  checks.positive('radius', radius, one=True)
  checks.count('num_steps', num_steps, 1)
  radius = _numbers.as_float(radius)

  def weigh(gram, present):
    fraction = jnp.pad(weighting.uniform(present), (0, 1))
    unit = geometry.largest_square(gram)

    def step(weights, _):
      distances = geometry.distances_to(gram / unit, weights) * jnp.sqrt(unit)
      pull = fraction * radius / jnp.maximum(distances, radius)
      return weights * (1 - pull.sum()) + pull, None

    # Computed from both, so that under shard_map it varies as the result does.
    start = 0 * fraction + 0 * gram[0] + (
      jnp.arange(len(gram)) == len(present))
    return lax.scan(step, start, length=num_steps)[0]

  return weighting.stateless(weigh, num_extra=1)
