"""State that is private to workers, for another number of workers."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from gradiv._common import checks


def resize_workers(state: Any, num_workers: int, *, in_axes: Any = 0) -> Any:
  """Bring state that is private to workers to another number of workers.

  Use it when a run goes on with more or fewer workers than it was begun with.
  State that is common to the workers needs no change. State of each worker's
  own (parameters under gossip, buffers of delays, errors of compression,
  momentum of local steps) has a leading axis of one row per worker, as
  `map_workers` takes it with ``in_axes=0``.

  The mean over the workers stays, as it is what such state stands for: the mean
  of the parameters, the gradients that still arrive, the errors that are still
  to be sent. From n to m workers, with k their least common multiple, each row
  is repeated k/n times, and then k/m neighbors are averaged. So with m a
  multiple of n, rows are repeated; with n a multiple of m, they are averaged in
  groups. Rows of integers, Booleans and random keys are picked, not averaged:
  new worker j gets row ⌊j·n/m⌋. With n = m nothing changes, to the bit.

  Args:
    state: A tree of arrays.
    num_workers: m.
    in_axes: Prefix tree of 0 (private, [n, ...]) and None (common, returned as
      it is).

  Returns:
    The tree with private leaves [m, ...], dtypes kept.

  Raises:
    ValueError: If `num_workers` is not at least 1, if a leaf of `in_axes` is
      neither 0 nor None, or if a private leaf has no leading axis.

  >>> errors = {'w': jnp.array([1., 3., 5., 7.])}
  >>> resize_workers(errors, 2)['w'].tolist()
  [2.0, 6.0]
  >>> resize_workers({'w': jnp.array([2., 6.])}, 4)['w'].tolist()
  [2.0, 2.0, 6.0, 6.0]

  Four workers become two, which have the means of two each, and two become
  four. The mean is 4 throughout.
  """
  checks.count('num_workers', num_workers, 1)
  if set(jax.tree.leaves(in_axes)) - {0}:
    raise ValueError(f'in_axes={in_axes!r}: leaves must be 0 or None')

  def resize(path, x):
    if not jnp.ndim(x) or not len(x):
      raise ValueError(
        f'state{jax.tree_util.keystr(path)} has shape {jnp.shape(x)}: private '
        'state must have a leading axis of one row per worker')
    return x if len(x) == num_workers else _resized(x, num_workers)

  def under(axis, tree):
    if axis is None:
      return tree
    return jax.tree_util.tree_map_with_path(resize, tree)

  return jax.tree.map(under, in_axes, state, is_leaf=lambda x: x is None)


def _resized(x, num_workers):
  old = len(x)
  if not jnp.issubdtype(x.dtype, jnp.inexact):
    return x[jnp.arange(num_workers) * old // num_workers]
  common = math.lcm(old, num_workers)
  repeated = jnp.repeat(x, common // old, axis=0)
  groups = repeated.reshape(num_workers, common // num_workers, *x.shape[1:])
  return groups[:, 0] if common == num_workers else groups.mean(1)
