"""Sums over workers that do not wait for the end of the backward pass.

Whether a gradient is finite is known when its last element is. A sum that
zeroed it first would send nothing before then. Here each leaf is summed as it
is, as soon as it is there, and summed once more in the rare step in which a
gradient has to be left out.

Workers under `vmap` wait for nothing: `mean_of_finite` averages their rows and
learns in the same pass whether all are finite.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gradiv import workers
from gradiv._common import (
  compat,
  layout as layouts,
  one_device,
  trees,
  usable_rows,
)

# Collectives under this name run only if a gradient is not finite.
AGAIN = 'sum_again_without_what_is_not_finite'
# Elements of a part, at least: a condition costs more to start than to copy
# fewer.
_LEAST = 2**18


def mean_of_finite(
  grads: Any, layout: layouts.Layout, axis_name: workers.AxisName
) -> tuple[Any, jax.Array]:
  """Average the finite gradients over the workers, in at least float32.

  Args:
    grads: Gradient of this worker.
    layout: Layout of the gradient, of which only `sharded_over` matters.
    axis_name: Axis, or axes, of the workers.

  Returns:
    The mean, zeros if no gradient is finite, and the number of finite ones.
  """
  names = workers.names_of(axis_name)

  def collective(grads):
    is_finite = layouts.is_finite(grads, layout)
    total = sum_at_once(grads, is_finite, axis_name)
    count = lax.psum(is_finite.astype(jnp.float32), axis_name)
    all_finite = workers.num_workers(axis_name) - count.astype(jnp.int32) == 0
    total = leave_out(total, grads, is_finite, all_finite, axis_name)
    return jax.tree.map(lambda t: t / jnp.maximum(count, 1), total), count

  def of_rows(grads):
    mean, is_finite = usable_rows.mean(grads)
    return mean, is_finite.sum().astype(jnp.float32)

  if compat.is_over_devices(names):
    return collective(grads)
  has_rows = jax.tree.leaves(grads) and not layout.shard_names
  return one_device.directly(
    collective, of_rows if has_rows else None, names, grads)


def sum_at_once(
  grads: Any, is_finite: jax.Array, axis_name: workers.AxisName
) -> Any:
  """Sum gradients over the workers, in at least float32.

  The sum is that of the finite gradients only if all are finite, or if the
  workers are simulated on one device, where nothing is sent.

  Args:
    grads: Gradient of this worker.
    is_finite: Whether it is finite.
    axis_name: Axis, or axes, of the workers.
  """
  names = workers.names_of(axis_name)
  if compat.is_over_devices(names):
    return _sum(grads, axis_name)
  collective = lambda grads, is_finite: _sum(
    trees.keep_if(is_finite, grads), axis_name)
  return one_device.directly(collective, _sum_rows, names, grads, is_finite)


def leave_out(
  total: Any,
  grads: Any,
  is_finite: jax.Array,
  all_finite: jax.Array,
  axis_name: workers.AxisName,
) -> Any:
  """Turn the result of `sum_at_once` into the sum of the finite gradients.

  Args:
    total: That result.
    grads: Gradient of this worker.
    is_finite: Whether it is finite.
    all_finite: Whether those of all workers are. It must be a sum over the
      workers: all have to take the same branch, in which they meet again.
    axis_name: Axis, or axes, of the workers.
  """
  if not compat.is_over_devices(workers.names_of(axis_name)):
    return total

  def again(total, grads):
    del total
    with jax.named_scope(AGAIN):
      return _sum(trees.keep_if(is_finite, grads), axis_name)

  totals, treedef = jax.tree.flatten(total)
  grads, kept = jax.tree.leaves(grads), []
  # A part at a time, because XLA copies what a cond passes on.
  for part in _parts([x.size for x in totals]):
    kept += lax.cond(all_finite, lambda total, grads: total, again,
                     totals[part], grads[part])
  return treedef.unflatten(kept)


def _parts(sizes):
  """Cut a list of leaves into parts of about a sixteenth of the elements."""
  least = max(_LEAST, sum(sizes) // 16)
  start, size = 0, 0
  for i, own in enumerate(sizes):
    size += own
    if size >= least or i == len(sizes) - 1:
      yield slice(start, i + 1)
      start, size = i + 1, 0


def _sum_rows(grads, is_finite):
  """Sum the finite gradients, the rows of leaves [n, ...]."""
  sums = lambda kept: lambda grads: jax.tree.map(
    lambda rows: one_device.sum_rows(trees.widen(rows), kept), grads)
  return lax.cond(is_finite.all(), sums(None), sums(is_finite), grads)


def _sum(grads, axis_name):
  return jax.tree.map(lambda g: lax.psum(trees.widen(g), axis_name), grads)
