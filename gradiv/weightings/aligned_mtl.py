"""Aligned-MTL: make the gradients orthogonal and equally long, then average."""

import jax.numpy as jnp

from gradiv._common import checks
from gradiv.weightings import _spectrum, geometry, weighting


def aligned_mtl(scale_mode: str = 'min') -> weighting.Weighting:
  """Make the gradients orthogonal and equally long, then average them.

  Use it to train on several losses when some gradients dominate or nearly
  coincide. Weights may be negative.

  w = √s V Λ^(−½) Vᵀ 1/n, with G = VΛVᵀ over the r eigenvalues that are not
  zero; s is one of them, or their mean. For the gradients as rows of J = VΣUᵀ,
  the update is the mean of the rows of √s VUᵀ.

  >>> # Lengths 1 and 2, both made √2.5, half of each.
  >>> aligned_mtl('rmse')(jnp.diag(jnp.array([1., 4.]))).tolist()
  [0.7905694246292114, 0.3952847123146057]

  Args:
    scale_mode: s is the smallest eigenvalue ('min'), the median ('median', the
      lower of two), or the mean ('rmse').

  An eigenvalue counts as zero below 2e-6 of the largest, or 2.4e-7 n if that is
  more. TorchJD's limit of 1.2e-7 n is within the rounding of float32. The limit
  matters for 'min', where the smallest eigenvalue that counts gives the length.
  If all are zero, the result is the mean. The relative error is about 2e-7
  times the ratio of the largest eigenvalue to the smallest that counts.

  Senushkin et al., `Independent Component Alignment for Multi-Task Learning
  <https://arxiv.org/abs/2305.19000>`_, 2023.
  """
  checks.choice('scale_mode', scale_mode, _SCALES)

  def weigh(gram, present):
    values, vectors, kept = _spectrum.spectrum(
      geometry.normalized(gram), present)
    mean = weighting.uniform(present)
    scale = _SCALES[scale_mode](values, kept)
    stretch = jnp.where(kept, jnp.sqrt(scale / values), 0)
    w = geometry.dot(vectors, stretch * geometry.dot(mean, vectors))
    return jnp.where(jnp.any(kept), w, mean)

  return weighting.stateless(weigh)


_SCALES = {
  'min': lambda values, kept: jnp.min(jnp.where(kept, values, jnp.inf)),
  # Eigenvalues come in ascending order, those that are kept last.
  'median': lambda values, kept: values[
    len(values) - jnp.maximum(jnp.sum(kept), 1) // 2 - 1],
  'rmse': lambda values, kept: jnp.sum(jnp.where(kept, values, 0)) / (
    jnp.maximum(jnp.sum(kept), 1)),
}
