"""Skip collectives where all workers lie on one device, under `vmap`.

Under ``vmap(axis_name=...)`` the gradients of all workers are the rows of one
array. A collective there copies: an all-to-all is a transpose, and slices are
packed for nobody. `directly` names a second function for that case.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap


def directly(
  collective: Callable, of_rows: Callable | None, names: Sequence[str],
  *args: Any,
) -> Any:
  """Compute ``collective(*args)``, or what equals it on the rows of `vmap`.

  Jax does not tell a function how its axis came to be. But the index of a
  worker is an array of indices under the `vmap` that names the axis, and one
  index anywhere else; a batching rule sees the difference.

  >>> mean = lambda x: lax.pmean(x, 'workers')
  >>> own = lambda x: directly(
  ...   mean, lambda rows: rows.mean(0), ('workers',), x)
  >>> float(jax.vmap(own, axis_name='workers', out_axes=None)(jnp.arange(4.)))
  1.5

  Args:
    collective: Function of `args` that uses the axis. All derivatives are
      taken of it.
    of_rows: The same function of arguments with a leading axis of workers. Its
      results are common to all workers, and have no such axis. None if
      `collective` should run.
    names: Names of the workers' axes. With more than one, `collective` runs.
    *args: Trees of arrays.
  """
  if of_rows is None or len(names) != 1:
    return collective(*args)
  leaves, treedef = jax.tree.flatten(jax.tree.map(jnp.asarray, args))
  of_leaves = lambda *leaves: collective(*treedef.unflatten(leaves))
  of_leaf_rows = lambda *leaves: of_rows(*treedef.unflatten(leaves))
  return _mapped(of_leaves, of_leaf_rows)(lax.axis_index(names[0]), *leaves)


# Fewer elements, or more rows, are left to the compiler's own reduction, which
# takes the elements one by one.
_SMALL, _MANY_ROWS, _AT_ONCE = 1 << 14, 64, 8


def sum_rows(
  rows: jax.Array,
  kept: jax.Array | None = None,
  of: Callable[[jax.Array], jax.Array] = lambda row: row,
) -> jax.Array:
  """Sum over the first axis; up to 64 long rows one whole row at a time.

  >>> sum_rows(jnp.array([[1., 2.], [3., 4.], [5., 6.]]))
  Array([ 9., 12.], dtype=float32)

  Args:
    rows: [n, ...].
    kept: Which rows count, [n]; all by default. The others may be NaN.
    of: Function of each element, computed in the pass that adds.
  """
  row = lambda i: of(rows[i]) if kept is None else jnp.where(
    kept[i], of(rows[i]), 0)
  if len(rows) > _MANY_ROWS or rows[0].size < _SMALL:
    rows = of(rows)
    if kept is not None:
      shape = (len(rows),) + (1,) * (rows.ndim - 1)
      rows = jnp.where(kept.reshape(shape), rows, 0)
    return rows.sum(0)
  total = row(0)
  for i in range(1, len(rows)):
    total += row(i)
    if i % _AT_ONCE == 0:
      # One pass over more rows would keep copies of them.
      total = lax.optimization_barrier(total)
  return total


def _mapped(collective, of_rows):
  """Return a function of the worker's index and of leaves."""
  @custom_vmap
  def call(index, *leaves):
    del index
    return collective(*leaves)

  @call.def_vmap
  def rule(size, batched, index, *leaves):
    is_worker_axis, *batched = batched
    if is_worker_axis:
      rows = [x if is_batched else jnp.broadcast_to(x, (size, *x.shape))
              for x, is_batched in zip(leaves, batched)]
      out = of_rows(*rows)
      return out, jax.tree.map(lambda _: False, out)
    # Another axis, such as one of seeds. That of the workers may follow.
    axes = lambda k: [k if is_batched else None for is_batched in batched]
    inner = _mapped(jax.vmap(collective, axes(0)), jax.vmap(of_rows, axes(1)))
    out = inner(index, *leaves)
    return out, jax.tree.map(lambda _: True, out)

  differentiable = jax.custom_jvp(call)

  @differentiable.defjvp
  def jvp(primals, tangents):
    return jax.jvp(collective, primals[1:], tangents[1:])

  return differentiable
