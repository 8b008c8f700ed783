"""Past parameters, to take the gradient at: stale without stored gradients.

The gradient of step t is taken at x_{t−τ}, on the batch of step t − τ, when it
is due. For a constant τ that is what `delay_updates` hands on, and a tree may
hold the batch, or its index, beside the parameters.

In a scan, push before you read: XLA then writes one row in place, and else
copies all.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gradiv._common import checks


class History(NamedTuple):
  """The last versions of a tree.

  Attributes:
    version: Of the latest; `init` made version 0.
    rows: By leaf, [depth, ...]: version v in row v mod depth.
  """

  version: jax.Array
  rows: Any


def init(tree: Any, depth: int) -> History:
  """Begin with version 0, which stands for what was before it, too.

  Args:
    tree: Such as the parameters.
    depth: How many versions are held: the largest staleness, and one.

  Raises:
    ValueError: On a depth below 1.
  """
  checks.count('depth', depth, 1)
  row = lambda x: jnp.broadcast_to(x, (depth, *jnp.shape(x)))
  return History(jnp.zeros((), jnp.int32), jax.tree.map(row, tree))


def push(history: History, tree: Any) -> History:
  """Add the next version, in place of the oldest."""
  version = history.version + 1
  write = lambda rows, x: lax.dynamic_update_index_in_dim(
    rows, jnp.asarray(x, rows.dtype), version % len(rows), 0)
  return History(version, jax.tree.map(write, history.rows, tree))


def read(history: History, staleness: jax.typing.ArrayLike = 0) -> Any:
  """Read the version that was the latest `staleness` versions ago.

  >>> past = init(jnp.float32(5.), depth=3)
  >>> for x in (6., 7., 8.):
  ...   past = push(past, jnp.float32(x))
  >>> [float(read(past, s)) for s in (0, 1, 2)]
  [8.0, 7.0, 6.0]

  Args:
    history: See `init`.
    staleness: From 0 to depth − 1; a traced number is trusted. Before the
      first version it reads the first.

  Raises:
    ValueError: On a number that is not traced, and too large.
  """
  for rows in jax.tree.leaves(history.rows):
    if not isinstance(staleness, jax.Array) and staleness not in range(
        len(rows)):
      raise ValueError(f'staleness={staleness!r}: must be from 0 to '
                       f'{len(rows) - 1}, of the versions that are held')
  return jax.tree.map(
    lambda rows: rows[(history.version - staleness) % len(rows)],
    history.rows)
