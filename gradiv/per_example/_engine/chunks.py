"""Sums over the examples, and work on some examples at a time."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gradiv._common import compat, trees
from gradiv.per_example._engine import costs, sharding


def add_up(rows: jax.Array) -> jax.Array:
  """Sum over the examples, in at least float32."""
  if len(rows) == 1:
    return trees.widen(rows[0])
  if rows.size <= costs.room('cpu') // 8:
    return jnp.sum(trees.widen(rows), 0)
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
  rebuild = lambda leaves: part(dict(zip(names, treedef.unflatten(leaves))))

  def run(platform, leaves):
    return _run(rebuild, leaves, costs.chunk(n, numbers, shards, platform),
                math.gcd(n, shards))

  default = jax.default_backend()
  of_cpu, of_default = (costs.chunk(n, numbers, shards, platform)
                        for platform in ('cpu', default))
  if of_cpu == of_default:
    return run(default, leaves)
  # The program may still be compiled for a CPU beside the default device.
  return lax.platform_dependent(
    leaves, cpu=functools.partial(run, 'cpu'),
    default=functools.partial(run, default))


def _run(part, leaves, sizes, each):
  """Apply `part` to lists of leaves [n, ...], cut into chunks.

  Args:
    part: As in `in_chunks`, but of a list of leaves.
    leaves: The leaves.
    sizes: Sizes of the first chunk and of the others.
    each: Number of shards. Every chunk takes as many examples of one as of
      another, so that all devices work on it.
  """
  (first, size), n = sizes, len(leaves[0])
  if first == n:
    return part(leaves)
  # Leave axes of one out, as a layer that takes a batch does; otherwise XLA
  # holds the array in both shapes.
  slim = [x.reshape(n, *(s for s in x.shape[1:] if s != 1)) for x in leaves]
  if each > 1:
    slim = [x.reshape(each, n // each, *x.shape[1:]) for x in slim]

  def cut(start, size):
    of_shard, axis = size // each, int(each > 1)
    return [lax.dynamic_slice_in_dim(x, start, of_shard, axis).reshape(
      size, *full.shape[1:]) for x, full in zip(slim, leaves)]

  def step(total, start):
    more, lined_up = part(cut(start, size))
    return jax.tree.map(jnp.add, total, more), lined_up

  if first == size:
    begun, start = [], 0
    like, _ = jax.eval_shape(part, cut(0, size))
    total = jax.tree.map(compat.zeros_like, like)
  else:
    total, rows = part(cut(0, first))
    begun, start = [rows], first
  total, rows = lax.scan(
    step, total, jnp.arange(start // each, n // each, size // each))
  rows = rows.reshape(-1, each, size // each, *rows.shape[2:]).swapaxes(0, 1)
  rows = rows.reshape(each, -1, *rows.shape[3:])
  begun = [x.reshape(each, -1, *x.shape[1:]) for x in begun]
  return total, jnp.concatenate([*begun, rows], 1).reshape(n, *rows.shape[2:])
