"""Squared norms of rows, in a way that compiles fast where they are small."""

import jax
import jax.numpy as jnp
from jax import lax

from gradiv._common import trees
from gradiv.per_example._engine import sharding

# Below this number, XLA on CPU compiles up to three loops for a sum; larger
# sums, and matrix products of any size, are calls of a library.
FEW = 4096


# So many rows are made of one array.
_ROWS = 8


def sq_norms(rows: jax.Array) -> jax.Array:
  """Compute ‖x_i‖² of rows [n, d]: [n].

  In a small network, compiling such sums would take longer than all else. A few
  rows have their norms on the diagonal of X Xᵀ, a matrix product.
  """
  rows = trees.widen(rows)
  n, _ = rows.shape
  if n * n > FEW or rows.size >= FEW or sharding.most_shards([rows]) > 1:
    return jnp.sum(jnp.square(rows), 1)
  gram = lax.dot_general(rows, rows, (((1,), (1,)), ((), ())),
                         precision=lax.Precision.HIGHEST)
  return lax.slice(gram.reshape(-1), (0,), (n * n,), (n + 1,))


def in_rows(x: jax.Array) -> jax.Array:
  """Bring the numbers of an array into a few rows; zeros fill the last."""
  width = -(-x.size // _ROWS)
  # `jnp.pad` would take a tenth of the time to trace a small network.
  padding = (0, _ROWS * width - x.size, 0)
  return lax.pad(x.reshape(-1), jnp.zeros((), x.dtype), [padding]).reshape(
    _ROWS, width)
