"""Slices of parameters for optimizers whose state is split over the workers.

With ``aggregate_by_weights(..., sharded=True)`` each worker gets its slice of
the update alone, and an optimizer behind it keeps its state for that slice
alone, as ZeRO does.
"""

from typing import Any

import jax

from gradiv import workers
from gradiv.aggregation._exchange import buckets, slices


def slice_leaves(tree: Any, axis_name: workers.AxisName) -> Any:
  """Return this worker's slice of each leaf of a tree common to all workers.

  Each slice is a vector of ⌈size/n⌉ elements; the last one is padded with
  zeros. `gather_leaves` is the inverse.

  Args:
    tree: The parameters, or any tree that is the same on all workers.
    axis_name: Axis, or axes, of the workers.

  >>> import jax.numpy as jnp
  >>> own = lambda _: slice_leaves(jnp.arange(3.), 'workers')
  >>> jax.vmap(own, axis_name='workers')(jnp.zeros(2)).tolist()
  [[0.0, 1.0], [2.0, 0.0]]
  """
  names = workers.names_of(axis_name)
  n = workers.num_workers(names)
  own = lambda x: slices.own_row(buckets.cut_into_rows(x.ravel(), n), names)
  return jax.tree.map(own, tree)


def gather_leaves(parts: Any, like: Any, axis_name: workers.AxisName) -> Any:
  """Put leaves together from the workers' slices: the inverse of slicing.

  Costs an all-gather of each leaf.

  Args:
    parts: This worker's slices, as `slice_leaves` returns them.
    like: Tree with the shapes of the whole leaves.
    axis_name: Axis, or axes, of the workers.
  """
  names = workers.names_of(axis_name)
  whole = lambda part, x: (
    slices.all_gather_vector(part, names)[:x.size].reshape(x.shape))
  return jax.tree.map(whole, parts, like)
