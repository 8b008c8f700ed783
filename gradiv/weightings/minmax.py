"""Rules that look after the gradient that gains least: convex games.

MGDA makes the smallest gain as large as it can be among directions of a given
length, CAGrad among those close to the mean, and Nash-MTL makes the product
of all gains largest. ⟨g_i, d⟩ is what gradient i gains from the update d.
"""

import jax.numpy as jnp

from gradiv._common import checks
from gradiv.weightings import core, quadratic


def mgda() -> core.Weighting:
  """Take the shortest vector in the convex hull of the gradients.

  w = argmin wᵀGw over w ≥ 0, Σ w_i = 1.

  All gradients with a weight gain the same, ‖Σ w_i g_i‖², and the others
  more. Solved by pivoting, where TorchJD takes up to 100 steps of the
  Frank-Wolfe method. To be safe from rounding, wᵀGw is taken up to
  4e-6 Σ w_i² ‖g_i‖²: as if each gradient had a component of its own besides,
  of 0.2 % of its length. Where there are several solutions this is one of
  them; gradients that are zero share the weight alike.

  >>> mgda()(jnp.diag(jnp.array([1., 4.]))).tolist()
  [0.800000011920929, 0.20000000298023224]

  Désidéri, `Multiple-gradient descent algorithm (MGDA) for multiobjective
  optimization <https://doi.org/10.1016/j.crma.2012.03.014>`_, 2012.
  """
  def weigh(gram, present):
    norms, cos, alive = quadratic.cosines(gram)
    shortest = jnp.min(jnp.where(alive, norms, jnp.inf))
    inverse = jnp.where(alive, jnp.minimum(shortest, norms) / norms, 0)
    # With x_i = w_i ‖g_i‖ up to a factor: min ½ xᵀCx − Σ x_i/‖g_i‖, x ≥ 0.
    x = inverse * quadratic.nonnegative(_ridged(cos), -inverse)
    total = jnp.sum(x)
    w = x / jnp.where(total > 0, total, 1)
    zero = present & ~alive
    return jnp.where(jnp.any(zero), core.uniform(zero), w)

  return core.stateless(weigh)


def cagrad(c: float = 0.5) -> core.Weighting:
  """Raise the smallest gain within a ball around the mean gradient.

  The update is argmax_d min_i ⟨g_i, d⟩ over ‖d − ḡ‖ ≤ c‖ḡ‖, ḡ the mean:
  w = 1/n + c‖ḡ‖/‖Σ v_i g_i‖ v, where v minimises
  ⟨ḡ, Σ v_i g_i⟩ + c‖ḡ‖ ‖Σ v_i g_i‖ over v ≥ 0, Σ v_i = 1.

  Where that vector is zero up to rounding (Pareto stationary, only for c ≥ 1
  or a gradient that is zero), so are the weights, as in TorchJD. It compares
  to 1e-4 of the lengths; here the limit is about 0.2 %, since float32 inner
  products show no less.

  >>> cagrad(0.5)(jnp.eye(2)).tolist()
  [0.75, 0.75]

  Args:
    c: The radius in lengths of the mean; 0 is the mean itself. From 1 on no
      gradient loses.

  Raises:
    ValueError: Where `c` is negative or not finite.

  Liu et al., `Conflict-Averse Gradient Descent for Multi-task Learning
  <https://arxiv.org/abs/2110.14048>`_, 2021.
  """
  if not 0 <= c < float('inf'):
    raise ValueError(f'c={c}: must be at least 0 and finite')

  def weigh(gram, present):
    gram = quadratic.normalised(gram)
    mean = core.uniform(present)
    gains = core.dot(gram, mean)
    radius = c * jnp.sqrt(jnp.maximum(core.dot(mean, gains), 0))
    more, stationary = _within_ball(gram, present, gains, radius)
    return jnp.where(stationary, 0, mean + more)

  return core.stateless(weigh)


def _within_ball(gram, present, gains, radius):
  """CAGrad's weights beyond the mean; and whether it is stationary."""
  norms, cos, alive = quadratic.cosines(gram)
  # In units of the lengths, since these may differ by much.
  h = _ridged(cos) * norms[:, None] * norms[None, :]
  moves = radius > 0
  radius = jnp.where(moves, radius, 1)
  top = jnp.min(jnp.where(alive, gains + radius * norms, jnp.inf))
  top = jnp.where(jnp.any(alive), top, 0)
  # The others never come into play: their gains are above any level.
  gains = jnp.where(alive, gains, jnp.abs(top) + jnp.max(jnp.abs(gains)) + 1)
  level, u = quadratic.highest_level(h, gains, radius, top)
  square = core.dot(u, core.dot(gram, u))
  stationary = square < 0.5 * radius**2
  stationary |= jnp.any(present & ~alive) & (level >= 0)
  u = radius / jnp.sqrt(jnp.where(stationary, radius**2, square)) * u
  return jnp.where(moves, u, 0), stationary & moves


def nash_mtl(max_norm: float | None = 1.) -> core.Weighting:
  """Make the product of all gains largest: the Nash bargaining solution.

  w > 0 with (Gw)_i = 1/w_i, shortened where ‖Σ w_i g_i‖ exceeds `max_norm`.

  Before that the update has the length √n, for whatever gradients: ‖Σ w_i
  g_i‖² = wᵀGw = n. Lengths of single gradients change nothing: Σ w_i g_i
  depends on their directions alone. A zero gradient has nothing to gain and
  gets no weight. Solved from scratch each time, by Newton's method; TorchJD
  goes on from the last step's solution by up to 20 convex subproblems and may
  stop early, and can keep weights for several steps. The relative error is
  some 4e-6/δ², where δ is the length of the shortest vector in the convex hull
  of the unit gradients. At Pareto stationary points, δ = 0, there is no
  solution; the weights are then some hundreds over the lengths.

  >>> nash_mtl(None)(jnp.diag(jnp.array([1., 4.]))).tolist()
  [1.0, 0.5]

  Args:
    max_norm: At most the length of the update; None for no limit.

  Raises:
    ValueError: Unless `max_norm` is positive or None.

  Navon et al., `Multi-Task Learning as a Bargaining Game
  <https://arxiv.org/abs/2202.01017>`_, 2022.
  """
  if max_norm is not None:
    checks.positive('max_norm', max_norm)

  def weigh(gram, present):
    del present
    norms, cos, alive = quadratic.cosines(gram)
    # Of unit gradients; what is left over (identity rows) has no say.
    a = jnp.where(alive, quadratic.reciprocal(_ridged(cos)), 0)
    square = core.dot(a, core.dot(cos, a))
    # Undo what the ridge took; where it took half, there is no solution.
    exact = jnp.sum(alive)
    square = jnp.maximum(square, jnp.maximum(exact, 1) / 2)
    length = jnp.sqrt(exact.astype(a.dtype))
    if max_norm is not None:
      length = jnp.minimum(length, max_norm)
    return length / jnp.sqrt(square) * a / norms

  return core.stateless(weigh)


def _ridged(cos):
  return cos + quadratic.RIDGE * jnp.eye(len(cos), dtype=cos.dtype)
