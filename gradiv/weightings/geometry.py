"""Distances, lengths and cosines read from a Gram matrix."""

import jax
import jax.numpy as jnp
from jax import lax


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
  """Multiply matrices in full float32 precision on every device."""
  return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def largest_square(gram: jax.Array) -> jax.Array:
  """Return the largest ‖g_i‖², or 1 if all gradients are zero."""
  largest = jnp.diagonal(gram).max()
  return jnp.where(largest > 0, largest, 1)


def normalized(gram: jax.Array) -> jax.Array:
  """Scale a Gram matrix so that the longest gradient has length one.

  A Gram matrix of zeros stays as it is.

  >>> normalized(jnp.array([[4., 1.], [1., 1.]])).tolist()
  [[1.0, 0.25], [0.25, 0.25]]
  """
  return gram / largest_square(gram)


def sq_distances(gram: jax.Array) -> jax.Array:
  """Compute ‖g_i − g_j‖² from a Gram matrix, clamped at zero.

  >>> sq_distances(jnp.array([[1., 0.], [0., 4.]])).tolist()
  [[0.0, 5.0], [5.0, 0.0]]
  """
  squares = jnp.diagonal(gram)
  squares = jnp.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0)
  return jnp.where(jnp.eye(len(gram), dtype=bool), 0, squares)


def unit_sq_distances(gram: jax.Array) -> jax.Array:
  """Compute ‖g_i − g_j‖² in units of the largest ‖g_i‖².

  Exactly symmetric, so that equal distances tie.
  """
  squares = sq_distances(normalized(gram))
  return (squares + squares.T) / 2


def distances_to(gram: jax.Array, weights: jax.Array) -> jax.Array:
  """Compute ‖g_i − z‖ for z = Σ w_j g_j.

  >>> distances_to(jnp.eye(2), jnp.array([0., 0.])).tolist()
  [1.0, 1.0]
  """
  dots = dot(gram, weights)
  squares = jnp.diagonal(gram) - 2 * dots + dot(weights, dots)
  return jnp.sqrt(jnp.maximum(squares, 0))


def cosine_distance(
  dot: jax.Array, sq_norm: jax.Array, other_sq_norm: jax.Array
) -> jax.Array:
  """Compute 1 − x·y/(‖x‖‖y‖), in [0, 2]; NaN where x or y is zero.

  >>> cosine_distance(jnp.float32(3.), jnp.float32(4.), jnp.float32(9.))
  Array(0.5, dtype=float32)

  Args:
    dot: x·y, of any shape.
    sq_norm: ‖x‖², broadcast against `dot`.
    other_sq_norm: ‖y‖², broadcast against `dot`.
  """
  return 1 - jnp.clip(dot / jnp.sqrt(sq_norm) / jnp.sqrt(other_sq_norm), -1, 1)


def cosines(gram: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Split a Gram matrix G = D C D into lengths D and cosines C.

  >>> norms, cos, alive = cosines(jnp.array([[4., 0.], [0., 0.]]))
  >>> norms.tolist(), cos.tolist(), alive.tolist()
  ([2.0, 1.0], [[1.0, 0.0], [0.0, 1.0]], [True, False])

  Returns:
    The lengths [n], with 1 for a zero gradient; the cosines [n, n], with 0
    beside a zero gradient and 1 on the diagonal; and which gradients are not
    zero, [n].
  """
  squares = jnp.diagonal(gram)
  alive = squares > 0
  norms = jnp.sqrt(jnp.where(alive, squares, 1))
  cos = jnp.clip(gram / norms[:, None] / norms[None, :], -1, 1)
  cos = jnp.where(alive[:, None] & alive[None, :], cos, 0)
  return norms, jnp.where(jnp.eye(len(gram), dtype=bool), 1, cos), alive


def ranks(values: jax.Array) -> jax.Array:
  """Return the position of each value in sorted order, on the last axis.

  >>> ranks(jnp.array([5., 1., 3.])).tolist()
  [2, 0, 1]
  """
  return jnp.argsort(jnp.argsort(values))
