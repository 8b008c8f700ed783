"""Keep past parameters, to take stale gradients without storing gradients.

At step t, take the gradient at x_{t−τ} on the batch of step t − τ. For a
constant τ this equals what `delay_updates` returns. The tree may hold the
batch, or its index, beside the parameters.

In a scan, push before you read: XLA then writes one row in place; otherwise it
copies all of them.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gradiv._common import checks


class History(NamedTuple):
  """The last versions of a tree.

  Attributes:
    version: Number of the latest version; `init` makes version 0.
    rows: Per leaf, [depth, ...], with version v in row v mod depth.
  """

  version: jax.Array
  rows: Any


def init(tree: Any, depth: int) -> History:
  """Start with version 0, which also stands for all earlier versions.

  Args:
    tree: Version 0, for example the initial parameters.
    depth: Number of versions to keep: the largest staleness plus one.
  """
  checks.count('depth', depth, 1)
  row = lambda x: jnp.broadcast_to(x, (depth, *jnp.shape(x)))
  return History(jnp.zeros((), jnp.int32), jax.tree.map(row, tree))


def push(history: History, tree: Any) -> History:
  """Return the history with one more version, in place of the oldest."""
  version = history.version + 1
  write = lambda rows, x: lax.dynamic_update_index_in_dim(
    rows, jnp.asarray(x, rows.dtype), version % len(rows), 0)
  return History(version, jax.tree.map(write, history.rows, tree))


def read(history: History, staleness: jax.typing.ArrayLike = 0) -> Any:
  """Return the version that was the latest `staleness` versions ago.

  >>> past = init(jnp.float32(5.), depth=3)
  >>> for x in (6., 7., 8.):
  ...   past = push(past, jnp.float32(x))
  >>> [float(read(past, s)) for s in (0, 1, 2)]
  [8.0, 7.0, 6.0]

  Args:
    history: The history, from `init` and `push`.
    staleness: A number from 0 to depth − 1. A traced number is not checked.
      Versions before the first read as the first.
  """
  for rows in jax.tree.leaves(history.rows):
    if not isinstance(staleness, jax.Array) and staleness not in range(
        len(rows)):
      raise ValueError(f'staleness={staleness!r}: must be from 0 to '
                       f'{len(rows) - 1}, the versions that are kept')
  return jax.tree.map(
    lambda rows: rows[(history.version - staleness) % len(rows)],
    history.rows)
