"""Reductions of short blocks that compile to vector instructions on a CPU.

XLA reduces the innermost axis one number at a time there, and an axis of more
than 32 in two passes, of which the first writes to memory. So the numbers of a
block have two axes, [..., chunks, lanes], with at most 16 lanes if they fit.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

LANES = 16
_BOTH = (-2, -1)
# More are reduced in two passes, see above.
_MANY_CHUNKS = 32
# More rows are added in a loop, as code for each takes long to compile.
_MANY_ROWS, _AT_ONCE = 64, 8


def shape(size: int) -> tuple[int, int]:
  """Return the chunks and the lanes of a block of a size.

  >>> shape(256), shape(250)
  ((16, 16), (1, 250))
  """
  return (1, size) if size % LANES else (size // LANES, LANES)


def largest_magnitude(blocks: jax.Array) -> jax.Array:
  """Find the largest magnitude of each block, [...]; NaN if it has one.

  Magnitudes of float32 are ordered as the integers that their bits are.

  >>> float(largest_magnitude(jnp.array([[1., -3., 2.]])))
  3.0
  """
  bits = lax.bitcast_convert_type(blocks, jnp.int32) & 0x7FFFFFFF
  if 1 < blocks.shape[-2] <= _MANY_CHUNKS:
    # All lanes at once, and then the few that are left.
    most = lax.optimization_barrier(bits.max(-2)).max(-1)
  else:
    most = bits.max(_BOTH)
  return lax.bitcast_convert_type(most, jnp.float32)


def sum_of_squares(whole: jax.Array) -> jax.Array:
  """Sum squares of integers of at most 127 in each block, [...] float32.

  >>> float(sum_of_squares(jnp.array([[3, -4]])))
  25.0
  """
  return jnp.square(whole).sum(_BOTH).astype(jnp.float32)


def add(term: Callable[[jax.Array | int], jax.Array], count: int) -> jax.Array:
  """Add ``term(i)``, each computed in the loop that adds it."""
  if count > _MANY_ROWS:
    return lax.fori_loop(
      1, count, lambda i, total: total + term(i), term(0))
  total = term(0)
  for i in range(1, count):
    total += term(i)
    if i % _AT_ONCE == 0:
      total = lax.optimization_barrier(total)
  return total

