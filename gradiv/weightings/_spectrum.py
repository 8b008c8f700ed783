"""Eigenvalue problems of the Gram matrix, where small eigenvalues are zero.

In float32, inner products cannot tell small eigenvalues from rounding.
"""

import jax
import jax.numpy as jnp

from gradiv.weightings import geometry

# Of a Gram matrix, relative to the largest: eigenvalues below it are zero.
_LEAST_EIGENVALUE = 2e-6


def spectrum(
  gram: jax.Array, counted: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Compute the eigenvalues and eigenvectors of a Gram matrix.

  Args:
    gram: [n, n].
    counted: Which gradients take part, [n].

  Returns:
    The eigenvalues in ascending order, [n], with 1 in place of those that are
    zero; the eigenvectors as columns, [n, n]; and which eigenvalues are not
    zero, [n].
  """
  values, vectors = jnp.linalg.eigh(gram)
  limit = jnp.maximum(_LEAST_EIGENVALUE, 2.4e-7 * jnp.sum(counted))
  kept = values > limit * jnp.maximum(values[-1], 0)
  return jnp.where(kept, values, 1), vectors, kept


def equal_projections(
  gram: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Find the direction on which all unit gradients project alike.

  Returns:
    x = D⁻¹ C⁺ 1, [n], with D the lengths and C the cosines; 1ᵀGx; and xᵀGx.
    All zero if the gradients cancel so that there is no direction.
  """
  norms, cos, alive = geometry.cosines(geometry.normalized(gram))
  cos = jnp.where(alive[:, None] & alive[None, :], cos, 0)
  values, vectors, kept = spectrum(cos, alive)
  ones = jnp.where(
    kept, geometry.dot(alive.astype(norms.dtype), vectors), 0)
  y = geometry.dot(vectors, ones / values)
  # Once more with the residual, which is more exact than the eigenvectors.
  residual = alive - geometry.dot(cos, y)
  y += geometry.dot(vectors, jnp.where(
    kept, geometry.dot(residual, vectors) / values, 0))
  square = jnp.sum(ones**2 / values)
  # At least one if all can be projected alike, otherwise about the fraction of
  # them that can.
  some = square > 1e-2
  length = jnp.sum(jnp.where(alive, norms, 0) * geometry.dot(vectors, ones))
  return (jnp.where(alive & some, y / norms, 0), length,
          jnp.where(some, square, 0))
