"""Squared norms in parts, which many parameters add up together.

The squared norm of one product is a sum over pairs of positions, and that of a
gradient written out is one over its elements. Added up parameter by parameter,
each would need a loop of its own, which takes longer to compile than to run
where arrays are small. So small parts are kept, [n, ...]: a few of one size are
first added to one another, and those that are left are added up side by side.
"""

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from gradiv._common import trees
from gradiv.per_example._engine import costs, row_norms, sharding

# How many parts are added at once. More would be compiled more slowly: XLA on
# CPU compiles loops that are alike only once.
_AT_ONCE = 8


def kept(parts: jax.Array) -> jax.Array:
  """Return parts [n, ...] as they are if they are small, else their sum [n]."""
  return parts if parts.size * _AT_ONCE <= costs.room() else total(parts)


def of_rows(rows: jax.Array) -> jax.Array:
  """Return ‖x_i‖² of arrays [n, ...]: [n].

  Not in parts: the rows are often the factor of a product, whose squared norms
  are known, and parts would be held beside them.
  """
  if rows.size < row_norms.FEW:
    return row_norms.sq_norms(rows.reshape(len(rows), -1))
  return total(jnp.square(trees.widen(rows)))


def total(parts: jax.Array) -> jax.Array:
  """Add parts up: [n, ...] to [n]."""
  return parts if parts.ndim == 1 else jnp.sum(
    parts, tuple(range(1, parts.ndim)))


def add_up(several: Sequence[jax.Array]) -> jax.Array:
  """Add up the parts [n, ...] of several squared norms: [n]."""
  # Of numbers of either sign: where they cancel, rounding is left.
  return jnp.maximum(_add_up(several), 0)


def _add_up(several):
  alike: dict[tuple, list[jax.Array]] = {}
  for parts in several:
    alike.setdefault((parts.size, parts.dtype), []).append(parts)
  sums = [_sum_of_alike(same[i:i + _AT_ONCE]) for same in alike.values()
          for i in range(0, len(same), _AT_ONCE)]
  few = [x for x in sums if x.shape[1] > 1 and x.size < row_norms.FEW]
  if len(few) > 1:
    sums = [x for x in sums if x.shape[1] == 1 or x.size >= row_norms.FEW]
    # The barrier keeps XLA from taking them apart again.
    sums.append(lax.optimization_barrier(jnp.concatenate(few, 1)))
  return functools.reduce(operator.add, map(total, sums))


def of_arrays(several: Sequence[jax.Array]) -> jax.Array:
  """Compute the squared norm of several arrays together.

  Small ones are joined, unless they may lie in shards: these would be sent.
  """
  joins = sharding.most_shards([*several]) == 1
  alike: dict[tuple, list[jax.Array]] = {}
  for x in several:
    alike.setdefault((x.size, x.dtype), []).append(x)
  few, parts = [], []
  for (size, _), same in alike.items():
    count = len(same) % _AT_ONCE if joins and size < row_norms.FEW else 0
    few += same[:count]
    parts += map(_squares, same[count:])
  if few:
    rows = row_norms.in_rows(jnp.concatenate(
      [trees.widen(x).reshape(-1) for x in few]))
    parts.append(row_norms.sq_norms(rows)[None])
  return _add_up(parts)[0]


@jax.jit
def _squares(x):
  """Return the squares of the elements, in parts of one row."""
  return kept(lax.square(trees.widen(x))[None])


@jax.jit
def _sum_of_alike(same):
  """Add arrays of one size element by element: [n, numbers]."""
  return functools.reduce(lax.add, [x.reshape(len(x), -1) for x in same])
