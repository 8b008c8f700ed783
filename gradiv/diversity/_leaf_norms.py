"""Squared norms of all leaves of a gradient, in few operations.

A network has hundreds of leaves but only a few shapes. One sum per leaf would
become one compiled kernel per leaf, and compiling them would take longer than
compiling the mean gradient itself. Small leaves of one shape are therefore
laid one behind the other, and all their sums are taken at once.
"""

import collections
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradiv._common import groups as groups_lib
from gradiv._common.layout import Grouping

# Elements. A larger leaf has its own kernel, rather than being copied.
_SMALL = 2**16


def sq_norms(*leaves: list[jax.Array], of: Any) -> jax.Array:
  """Compute ‖f(leaf, ...)‖² for each leaf: [leaves], in at least float32.

  Args:
    *leaves: One or several lists of leaves of the same shapes.
    of: Elementwise function f of one leaf from each list, which also accepts
      several leaves behind one another.
  """
  parts, places = [], []
  for place in _stacks(leaves[0]):
    rows = of(*(_stack([xs[i] for i in place]) for xs in leaves))
    square = jnp.real(rows * jnp.conj(rows))
    parts.append(jnp.sum(square, tuple(range(1, square.ndim))))
    places.extend(place)
  if not parts:
    return jnp.zeros(0, jnp.float32)
  return jnp.concatenate(parts)[np.argsort(places)]


def add_up(
  values: jax.Array, tree: Any, groups: Grouping | None
) -> jax.Array:
  """Add up [leaves] over all leaves, or by group: [] or [groups].

  The leaves are added one after the other, in their order.
  """
  if groups is None:
    index = np.zeros(len(values), int)
  else:
    index = groups_lib.members(tree, groups)
  rows = [np.flatnonzero(index == k) for k in range(index.max(initial=-1) + 1)]
  width = max(map(len, rows), default=0)
  # Rows are padded with a zero that stands behind the values.
  table = np.full((len(rows), width), len(values))
  for row, members in zip(table, rows):
    row[:len(members)] = members
  padded = jnp.concatenate([values, jnp.zeros(1, values.dtype)])
  totals = jnp.sum(padded[table], 1)
  if groups is not None:
    return totals
  return totals[0] if len(rows) else jnp.zeros((), values.dtype)


def _stacks(leaves) -> list[list[int]]:
  """List the places of leaves that are summed together."""
  stacks = collections.defaultdict(list)
  for i, x in enumerate(leaves):
    # The type also says over which axes of a mesh the leaf is laid out.
    kind = jax.typeof(x)
    alone = x.size > _SMALL or x.ndim == 0 or _is_laid_out(kind)
    stacks[i if alone else kind].append(i)
  return list(stacks.values())


def _is_laid_out(aval) -> bool:
  spec = getattr(getattr(aval, 'sharding', None), 'spec', ())
  return any(axis is not None for axis in spec)


def _stack(leaves):
  if len(leaves) == 1:
    return leaves[0][None]
  # One operation, where `jnp.stack` would first reshape each leaf.
  rows = jnp.concatenate(leaves)
  return rows.reshape(len(leaves), *leaves[0].shape)
