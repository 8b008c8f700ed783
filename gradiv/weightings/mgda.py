"""MGDA: the shortest vector in the convex hull of the gradients."""

import jax.numpy as jnp

from gradiv.weightings import _solvers, geometry, weighting


def mgda() -> weighting.Weighting:
  """Find the shortest vector in the convex hull of the gradients.

  Use it to train on several losses when the one that gains least matters most.
  Short gradients dominate; if the scales of the losses are arbitrary, consider
  `nash_mtl` or `upgrad`.

  w = argmin wᵀGw over w ≥ 0, Σ w_i = 1. All gradients with a positive weight
  gain the same, ⟨g_i, d⟩ = ‖d‖² for d = Σ w_j g_j, and the others gain more.
  If there are several solutions, this is one of them; zero gradients share the
  weight equally.

  >>> mgda()(jnp.diag(jnp.array([1., 4.]))).tolist()  # Inverse to squares.
  [0.800000011920929, 0.20000000298023224]

  It is solved by pivoting, while TorchJD takes up to 100 Frank-Wolfe steps. To
  be safe from rounding, 4e-6 Σ w_i² ‖g_i‖² is added to wᵀGw, as if each
  gradient had another component of its own of 0.2 % of its length.

  Désidéri, `Multiple-gradient descent algorithm (MGDA) for multiobjective
  optimization <https://doi.org/10.1016/j.crma.2012.03.014>`_, 2012.
  """
  def weigh(gram, present):
    norms, cos, alive = geometry.cosines(gram)
    shortest = jnp.min(jnp.where(alive, norms, jnp.inf))
    inverse = jnp.where(alive, jnp.minimum(shortest, norms) / norms, 0)
    # With x_i = w_i ‖g_i‖ up to a factor: min ½ xᵀCx − Σ x_i/‖g_i‖, x ≥ 0.
    x = inverse * _solvers.nonnegative(_solvers.ridged(cos), -inverse)
    total = jnp.sum(x)
    w = x / jnp.where(total > 0, total, 1)
    zero = present & ~alive
    return jnp.where(jnp.any(zero), weighting.uniform(zero), w)

  return weighting.stateless(weigh)
