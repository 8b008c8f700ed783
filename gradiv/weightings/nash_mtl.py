"""Nash-MTL: the Nash bargaining solution between the gradients."""

import jax
import jax.numpy as jnp

from gradiv._common import checks
from gradiv.weightings import _numbers, _solvers, geometry, weighting


def nash_mtl(
  max_norm: jax.typing.ArrayLike | None = 1.
) -> weighting.Weighting:
  """Maximize the product of all gains: the Nash bargaining solution.

  Use it to train on several losses whose scales are arbitrary: the update
  depends only on the directions of the gradients, not on their lengths.

  w > 0 with (Gw)_i = 1/w_i. The update Σ w_i g_i then has the length √n for
  any gradients, because wᵀGw = n; it is shortened to `max_norm`.

  >>> nash_mtl(None)(jnp.diag(jnp.array([1., 4.]))).tolist()  # 1/lengths.
  [1.0, 0.5]

  Args:
    max_norm: Largest length of the update; None for no limit.

  A zero gradient has nothing to gain and gets no weight. The relative error is
  about 4e-6/δ², where δ is the length of the shortest vector in the convex hull
  of the unit gradients. At Pareto stationary points, δ = 0, there is no
  solution; the weights then are some hundreds divided by the lengths.

  Each step is solved from scratch by Newton's method. TorchJD continues from
  the last step's solution by up to 20 convex subproblems, may stop early, and
  can keep weights for several steps.

  Navon et al., `Multi-Task Learning as a Bargaining Game
  <https://arxiv.org/abs/2202.01017>`_, 2022.
  """
  if max_norm is not None:
    checks.positive('max_norm', max_norm, one=True)
    max_norm = _numbers.as_float(max_norm)

  def weigh(gram, present):
    del present
    norms, cos, alive = geometry.cosines(gram)
    # Of unit gradients. Rows of zero gradients are those of the identity, and
    # have no influence on the others.
    a = jnp.where(alive, _solvers.reciprocal(_solvers.ridged(cos)), 0)
    square = geometry.dot(a, geometry.dot(cos, a))
    # Undo the shortening by the ridge; where it took half of the square, there
    # is no solution.
    exact = jnp.sum(alive)
    square = jnp.maximum(square, jnp.maximum(exact, 1) / 2)
    length = jnp.sqrt(exact.astype(a.dtype))
    if max_norm is not None:
      length = jnp.minimum(length, max_norm)
    return length / jnp.sqrt(square) * a / norms

  return weighting.stateless(weigh)
