"""IMTL-G: equal projections on all gradients, with weights that sum to one."""

import jax.numpy as jnp

from gradiv.weightings import _spectrum, weighting


def imtl_g() -> weighting.Weighting:
  """Find the update whose projections on all unit gradients are equal.

  Use it to train on several losses that should progress alike, regardless of
  the lengths of their gradients. Weights may be negative. `conflict_free` gives
  the same direction with another length.

  w = v/Σv with v = D⁻¹ C⁺ 1, where G = DCD, D the lengths and C the cosines:
  ⟨g_i, Σ w_j g_j⟩/‖g_i‖ is the same for all i if that is possible, and
  otherwise as close as possible in the sum of squares.

  >>> imtl_g()(jnp.diag(jnp.array([1., 4.]))).tolist()  # Inverse to lengths.
  [0.6666666865348816, 0.3333333432674408]

  The update is long where Σv is small. All weights are zero where Σv is zero up
  to rounding, and where gradients cancel so that less than 1 % of the vector 1
  can be projected to, as for g and −g.

  For independent gradients v = G⁻¹ √diag G, the solution of the paper. For
  dependent ones TorchJD uses G⁺ instead, which in general gives the same
  direction with another length, and loses short gradients if lengths differ by
  much.

  Liu et al., `Towards Impartial Multi-task Learning
  <https://openreview.net/forum?id=IMPnRXEWpvr>`_, 2021.
  """
  def weigh(gram, present):
    del present
    v, _, _ = _spectrum.equal_projections(gram)
    total = jnp.sum(v)
    some = jnp.abs(total) > 1e-5 * jnp.sum(jnp.abs(v))
    return jnp.where(some, v / jnp.where(some, total, 1), 0)

  return weighting.stateless(weigh)
