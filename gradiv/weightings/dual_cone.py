"""UPGrad and DualProj: project onto the vectors that conflict with no gradient.

The dual cone of the gradients is the set of all d with ⟨g_i, d⟩ ≥ 0 for all i:
to first order, a step along −d increases none of the losses.
"""

import functools

import jax
import jax.numpy as jnp

from gradiv._common import checks
from gradiv.weightings import _numbers, _solvers, geometry, weighting


def upgrad(*, ridge: jax.typing.ArrayLike = 1e-4) -> weighting.Weighting:
  """Project each gradient onto the dual cone of all, then average.

  Use it to train on several losses when none of them should increase. Each
  gradient contributes in proportion to its length.

  w = 1/n Σ_i argmin_{v ≥ e_i} vᵀHv with H = G/tr G + ridge·I. The update
  conflicts with no gradient: ⟨g_i, Σ w_j g_j⟩ ≥ −ridge·w_i·tr G. It vanishes
  only at strongly stationary points, where it must.

  >>> gram = jnp.array([[18., -22.], [-22., 38.]])
  >>> # More of both than the mean, so that the update helps both.
  >>> [round(w, 4) for w in upgrad()(gram).tolist()]
  [1.1109, 0.7894]

  Args:
    ridge: Number that makes the weights unique, relative to the trace of G.
      Positive; in float32, about 1e-6 is the smallest that works.

  The results are those of TorchJD up to rounding, except that TorchJD takes a
  Gram matrix with a trace below 1e-4 for zero, regardless of the scale of
  the loss. Quinton and Rey, `Jacobian Descent for Multi-Objective Optimization
  <https://arxiv.org/abs/2406.16232>`_, 2024.
  """
  checks.positive('ridge', ridge, one=True)
  ridge = _numbers.as_float(ridge)

  def weigh(gram, present):
    h = _regularized(gram, ridge)
    rows = jnp.diag(present.astype(gram.dtype))
    above = jax.vmap(functools.partial(_above, h))(rows)
    return jnp.sum(rows + above, 0) / jnp.maximum(jnp.sum(present), 1)

  return weighting.stateless(weigh)


def dual_proj(*, ridge: jax.typing.ArrayLike = 1e-4) -> weighting.Weighting:
  """Project the mean gradient onto the dual cone of all gradients.

  Use it in place of `upgrad` to stay as close to the mean as possible, and for
  the cost of one projection instead of n.

  w = argmin_{v ≥ 1/n} vᵀHv with H = G/tr G + ridge·I. The update is the vector
  closest to the mean that conflicts with no gradient, to the accuracy of
  `upgrad`.

  >>> gram = jnp.array([[18., -22.], [-22., 38.]])
  >>> # The mean, with enough of the first gradient not to conflict with it.
  >>> [round(w, 4) for w in dual_proj()(gram).tolist()]
  [0.6109, 0.5]

  Args:
    ridge: See `upgrad`.

  Gradient Episodic Memory projects one gradient in this way onto the cone of
  those of its memory; for several losses it is TorchJD's rule. Lopez-Paz and
  Ranzato, `Gradient Episodic Memory for Continual Learning
  <https://arxiv.org/abs/1706.08840>`_, 2017.
  """
  checks.positive('ridge', ridge, one=True)
  ridge = _numbers.as_float(ridge)

  def weigh(gram, present):
    mean = weighting.uniform(present)
    return mean + _above(_regularized(gram, ridge), mean)

  return weighting.stateless(weigh)


def _above(h, least):
  """Minimize vᵀHv over v ≥ least; return v − least."""
  return _solvers.nonnegative(h, geometry.dot(h, least))


def _regularized(gram, ridge):
  gram = geometry.normalized(gram)
  trace = jnp.trace(gram)
  own = ridge * jnp.eye(len(gram), dtype=gram.dtype)
  return gram / jnp.where(trace > 0, trace, 1) + own
