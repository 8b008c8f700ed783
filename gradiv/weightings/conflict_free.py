"""ConFIG: equal cosines with all gradients, and the length of their sum."""

import jax.numpy as jnp

from gradiv.weightings import _spectrum, weighting


def conflict_free() -> weighting.Weighting:
  """Find the update with equal cosines, as long as its projections (ConFIG).

  Use it to train on several losses, such as the equation and the boundaries of
  a physics-informed network, that should progress alike and in proportion to
  how far their gradients agree. Weights may be negative.

  w = (1ᵀGx / xᵀGx) x with x = D⁻¹ C⁺ 1, where G = DCD, D the lengths and C the
  cosines. The direction is that of `imtl_g`, û ∝ U⁺1 with the unit gradients as
  the rows of U; the length is the sum of the projections, Σ ⟨g_i, û⟩. All
  weights are zero where `imtl_g` finds no direction.

  >>> # Lengths 1 and 2: Σ ⟨g_i, û⟩ = 3/√2 along û = (1, 1)/√2.
  >>> conflict_free()(jnp.diag(jnp.array([1., 4.]))).tolist()
  [1.5, 0.75]

  As in the paper and in TorchJD, the projections are those of the gradients
  themselves, not of unit gradients.

  Liu et al., `ConFIG: Towards Conflict-free Training of Physics Informed
  Neural Networks <https://arxiv.org/abs/2408.11104>`_, 2024.
  """
  def weigh(gram, present):
    del present
    x, length, square = _spectrum.equal_projections(gram)
    return length / jnp.where(square > 0, square, 1) * x

  return weighting.stateless(weigh)
