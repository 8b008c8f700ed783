"""Rules that even out what the gradients pull for, by an eigenvalue problem.

IMTL-G and ConFIG give all unit gradients the same share in the update; Aligned
MTL makes the gradients orthogonal and of one length. All weights may be
negative. Small eigenvalues count as zero: float32 inner products cannot tell
them from rounding.
"""

import jax.numpy as jnp

from gradiv._common import checks
from gradiv.weightings import core, quadratic

# Of a Gram matrix, relative to the largest: which eigenvalues are not zero.
_LEAST_EIGENVALUE = 2e-6


def imtl_g() -> core.Weighting:
  """Go where all unit gradients are projected alike.

  w = v/Σv with v = D⁻¹ C⁺ 1, where G = DCD, D the lengths and C the cosines:
  ⟨g_i, Σ w_j g_j⟩/‖g_i‖ is the same for all i, where that can be; otherwise
  it is as good as it can be in the sum of squares.

  For independent gradients v = G⁻¹ √diag G, the solution of the paper. For
  dependent ones TorchJD takes G⁺ in its place, which in general is another
  length of the same direction, and which loses the short gradients where
  lengths differ by much. The update is long where Σv is small. No weight at
  all where it is zero up to rounding, or where gradients cancel so that less
  than 1 % of 1 can be projected to, as for g and −g.

  >>> imtl_g()(jnp.diag(jnp.array([1., 4.]))).tolist()
  [0.6666666865348816, 0.3333333432674408]

  Liu et al., `Towards Impartial Multi-task Learning
  <https://openreview.net/forum?id=IMPnRXEWpvr>`_, 2021.
  """
  def weigh(gram, present):
    del present
    v, _, _ = _even(gram)
    total = jnp.sum(v)
    some = jnp.abs(total) > 1e-5 * jnp.sum(jnp.abs(v))
    return jnp.where(some, v / jnp.where(some, total, 1), 0)

  return core.stateless(weigh)


def config() -> core.Weighting:
  """Go where all unit gradients are projected alike, by the sum of projections.

  The direction is that of `imtl_g`, û ∝ U⁺1 with the unit gradients as the
  rows of U, and the update is (Σ ⟨g_i, û⟩) û:
  w = (1ᵀGx / xᵀGx) x with x = D⁻¹ C⁺ 1.

  Its cosines with all gradients are equal, where that can be. Its length is
  the paper's and TorchJD's, with the gradients themselves, not those of unit
  length. No weight at all where `imtl_g` sees no direction.

  >>> config()(jnp.diag(jnp.array([1., 4.]))).tolist()
  [1.5, 0.75]

  Liu et al., `ConFIG: Towards Conflict-free Training of Physics Informed
  Neural Networks <https://arxiv.org/abs/2408.11104>`_, 2024.
  """
  def weigh(gram, present):
    del present
    x, length, square = _even(gram)
    return length / jnp.where(square > 0, square, 1) * x

  return core.stateless(weigh)


def aligned_mtl(scale_mode: str = 'min') -> core.Weighting:
  """Make the gradients orthogonal, of one length, then average them.

  w = √s V Λ^(−½) Vᵀ 1/n, with G = VΛVᵀ over the r eigenvalues that are not
  zero; s is one of them, or their mean. In terms of the gradients as rows of
  J = VΣUᵀ: the mean of the rows of √s VUᵀ.

  An eigenvalue counts as zero below 2e-6 of the largest, or 2.4e-7 n if that
  is more. TorchJD's limit is 1.2e-7 n, within the rounding of float32; this
  matters for 'min', where the smallest that counts gives the length. The mean
  where all are zero. The relative error is about 2e-7 times the ratio of the
  largest eigenvalue to the smallest that counts.

  >>> aligned_mtl('rmse')(jnp.diag(jnp.array([1., 4.]))).tolist()
  [0.7905694246292114, 0.3952847123146057]

  Args:
    scale_mode: s is the smallest eigenvalue ('min'), the median ('median', the
      lower of two), or the mean ('rmse').

  Raises:
    ValueError: Where `scale_mode` is none of these.

  Senushkin et al., `Independent Component Alignment for Multi-Task Learning
  <https://arxiv.org/abs/2305.19000>`_, 2023.
  """
  checks.choice('scale_mode', scale_mode, _SCALES)

  def weigh(gram, present):
    values, vectors, kept = _spectrum(quadratic.normalised(gram), present)
    mean = core.uniform(present)
    scale = _SCALES[scale_mode](values, kept)
    shares = jnp.where(kept, jnp.sqrt(scale / values), 0)
    w = core.dot(vectors, shares * core.dot(mean, vectors))
    return jnp.where(jnp.any(kept), w, mean)

  return core.stateless(weigh)


_SCALES = {
  'min': lambda values, kept: jnp.min(jnp.where(kept, values, jnp.inf)),
  # Eigenvalues come in ascending order, those kept last.
  'median': lambda values, kept: values[
    len(values) - jnp.maximum(jnp.sum(kept), 1) // 2 - 1],
  'rmse': lambda values, kept: jnp.sum(jnp.where(kept, values, 0)) / (
    jnp.maximum(jnp.sum(kept), 1)),
}


def _even(gram):
  """x = D⁻¹C⁺1, 1ᵀGx and xᵀGx, all zero where no direction is left."""
  norms, cos, alive = quadratic.cosines(quadratic.normalised(gram))
  cos = jnp.where(alive[:, None] & alive[None, :], cos, 0)
  values, vectors, kept = _spectrum(cos, alive)
  ones = jnp.where(kept, core.dot(alive.astype(norms.dtype), vectors), 0)
  y = core.dot(vectors, ones / values)
  # Once more with the residual, which is more exact than the eigenvectors.
  residual = alive - core.dot(cos, y)
  y += core.dot(vectors, jnp.where(
    kept, core.dot(residual, vectors) / values, 0))
  square = jnp.sum(ones**2 / values)
  # At least one where all can be projected alike; else about the share that is.
  some = square > 1e-2
  length = jnp.sum(jnp.where(alive, norms, 0) * core.dot(vectors, ones))
  return (jnp.where(alive & some, y / norms, 0), length,
          jnp.where(some, square, 0))


def _spectrum(gram, counted):
  """Eigenvalues, 1 where they do not count, eigenvectors; which count."""
  values, vectors = jnp.linalg.eigh(gram)
  limit = jnp.maximum(_LEAST_EIGENVALUE, 2.4e-7 * jnp.sum(counted))
  kept = values > limit * jnp.maximum(values[-1], 0)
  return jnp.where(kept, values, 1), vectors, kept
