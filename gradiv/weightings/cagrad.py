"""CAGrad: help the gradient that gains least, close to the mean gradient."""

import jax
import jax.numpy as jnp
import numpy as np

from gradiv._common import checks
from gradiv.weightings import _numbers, _solvers, geometry, weighting


def cagrad(c: jax.typing.ArrayLike = 0.5) -> weighting.Weighting:
  """Maximize the smallest gain within a ball around the mean gradient.

  Use it to train on several losses when the mean loss should decrease as well:
  `c` leads from the mean (0) toward `mgda` (large).

  The update is argmax_d min_i ⟨g_i, d⟩ over ‖d − ḡ‖ ≤ c‖ḡ‖, with ḡ the mean:
  w = 1/n + c‖ḡ‖/‖Σ v_i g_i‖ v, where v minimizes
  ⟨ḡ, Σ v_i g_i⟩ + c‖ḡ‖ ‖Σ v_i g_i‖ over v ≥ 0, Σ v_i = 1.

  If that Σ v_i g_i is zero up to rounding, because gradients cancel or one of
  them is zero, no update increases the smallest gain, and several leave it at
  zero. For c ≥ 1 the weights then are zero, as in TorchJD. For c < 1 zero lies
  outside of the ball; the update then is the vector closest to the mean that
  has no negative gain. "Up to rounding" means about 0.2 % of the lengths,
  because float32 inner products show no less; TorchJD compares to 1e-4.

  >>> cagrad(0.5)(jnp.eye(2)).tolist()  # 1/2 each, and half as much again.
  [0.75, 0.75]

  Args:
    c: Radius of the ball, in units of the length of the mean; at least 0. From
      1 on no gradient has a negative gain.

  Liu et al., `Conflict-Averse Gradient Descent for Multi-task Learning
  <https://arxiv.org/abs/2110.14048>`_, 2021.
  """
  checks.within('c', c, 0, float(np.finfo(np.float32).max), one=True)
  c = _numbers.as_float(c)

  def weigh(gram, present):
    gram = geometry.normalized(gram)
    mean = weighting.uniform(present)
    gains = geometry.dot(gram, mean)
    radius = c * jnp.sqrt(jnp.maximum(geometry.dot(mean, gains), 0))
    best, harmless, stationary = _moves(gram, present, gains, radius)
    nearest = jnp.where(c < 1, mean + harmless, 0)
    return jnp.where(stationary, nearest, mean + best)

  return weighting.stateless(weigh)


def _moves(gram, present, gains, radius):
  """Compute the weights beyond the mean.

  Returns:
    Those of the best move within the radius; those of the shortest move after
    which no gain is negative, if one is within the radius, else the best gain
    is reached; and whether the best move is not defined, so that the second
    one counts.
  """
  norms, cos, alive = geometry.cosines(gram)
  # In units of the lengths, which may differ by much.
  h = _solvers.ridged(cos) * norms[:, None] * norms[None, :]
  moves = radius > 0
  radius = jnp.where(moves, radius, 1)
  top = jnp.min(jnp.where(alive, gains + radius * norms, jnp.inf))
  top = jnp.where(jnp.any(alive), top, 0)
  # Zero gradients never come into play: their gains are above any level.
  gains = jnp.where(alive, gains, jnp.abs(top) + jnp.max(jnp.abs(gains)) + 1)
  level, u = _solvers.highest_level(h, gains, radius, top)
  square = geometry.dot(u, geometry.dot(gram, u))
  # The ridge alone provides most of the length: Σ u_i g_i is nearly zero.
  stationary = square < 0.5 * radius**2
  # With a zero gradient the smallest gain is at most zero.
  stationary |= jnp.any(present & ~alive) & (level >= 0)
  u = radius / jnp.sqrt(jnp.where(stationary, radius**2, square)) * u
  harmless = _solvers.nonnegative(h, gains - jnp.minimum(level, 0))
  length = jnp.sqrt(jnp.maximum(
    geometry.dot(harmless, geometry.dot(gram, harmless)), 0))
  harmless *= radius / jnp.maximum(length, radius)
  return (jnp.where(moves, u, 0), jnp.where(moves, harmless, 0),
          stationary & moves)
