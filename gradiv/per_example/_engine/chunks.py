"""Sums over the examples, and work on some examples at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gradiv._common import trees
from gradiv.per_example._engine import costs, sharding


def add_up(rows: jax.Array) -> jax.Array:
  """Sum over the examples, in at least float32."""
  if len(rows) == 1:
    return trees.widen(rows[0])
  # As a product, because XLA:CPU is slow at sums over the outermost axis.
  return jnp.einsum('n,n...->...', jnp.ones(len(rows), rows.dtype), rows,
                    precision=lax.Precision.HIGHEST,
                    preferred_element_type=trees.wide_dtype(rows.dtype))


def in_chunks(
  part: Callable[[Any], tuple[Any, jax.Array]], data: Any, numbers: int
) -> tuple[Any, jax.Array]:
  """Apply a function to chunks of the examples, one after the other.

  Args:
    part: Data of some examples -> (a sum over them, [examples, ...]).
    data: Dict of trees of arrays with the examples in front.
    numbers: How many numbers `part` writes out per example; decides on the
      size of a chunk.

  Returns:
    The sum over all examples, and the rows of all of them.
  """
  leaves, treedef = jax.tree.flatten(list(data.values()))
  names = list(data)
  n, shards = len(leaves[0]), sharding.most_shards(leaves)
  size = costs.chunk(n, numbers, shards)
  rebuild = lambda leaves: part(dict(zip(names, treedef.unflatten(leaves))))
  if size == n:
    return rebuild(leaves)
  # Leave axes of one out, as a layer that takes a batch does; otherwise XLA
  # holds the array in both shapes.
  slim = [x.reshape(n, *(s for s in x.shape[1:] if s != 1)) for x in leaves]
  count = n // size
  if shards > 1:
    # Every chunk takes the same number of examples from each shard.
    slim = [x.reshape(size, count, *x.shape[1:]) for x in slim]
    take = lambda x, i: lax.dynamic_index_in_dim(x, i, 1, keepdims=False)
  else:
    take = lambda x, i: lax.dynamic_slice_in_dim(x, i * size, size)
  cut = lambda i: [take(x, i).reshape(size, *full.shape[1:])
                   for x, full in zip(slim, leaves)]

  def step(total, i):
    more, lined_up = rebuild(cut(i))
    return jax.tree.map(jnp.add, total, more), lined_up

  # Start from the first chunk, not from zeros: XLA would allocate the zeros of
  # all parameters before the forward pass and hold them throughout.
  total, first = rebuild(cut(0))
  total, rest = lax.scan(step, total, jnp.arange(1, count))
  if shards > 1:
    rows = jnp.moveaxis(jnp.concatenate([first[None], rest]), 0, 1)
    return total, rows.reshape(n, *rows.shape[2:])
  rest = rest.reshape(n - size, *rest.shape[2:])
  return total, jnp.concatenate([first, rest])
