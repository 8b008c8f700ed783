"""Loops over microbatches, so that one of them is held in memory at a time."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gradiv._common import compat, trees
from gradiv.per_example._engine import sharding


def first(tree: Any, size: int) -> Any:
  """Return the first microbatch of leaves [n, ...]."""
  return jax.tree.map(lambda x: x if len(x) == size else x[:size], tree)


def add_up(sums: Callable, tree: Any, size: int) -> tuple[Any, Any, Any]:
  """Add up over microbatches.

  Args:
    sums: Function of one microbatch that returns a tuple: what to add up; what
      is the same for every microbatch; and a tree with an axis of examples.
    tree: Leaves [n, ...].
    size: Examples per microbatch; divides n.

  Returns:
    The same three: the sum in at least float32, the common part, and the tree
    with the examples of all microbatches, in order.
  """
  if _is_whole(tree, size):
    return sums(tree)

  def step(carry, chunk):
    total, shared, aux = sums(chunk)
    # In bfloat16, small values would be lost beside the sum so far.
    add = lambda so_far, x: so_far + trees.widen(x)
    return (jax.tree.map(add, carry[0], total), shared), aux

  total, shared, _ = jax.eval_shape(sums, first(tree, size))
  total = jax.eval_shape(trees.widen, total)
  zeros = jax.tree.map(compat.zeros_like, (total, shared))
  (total, shared), aux = lax.scan(step, zeros, cut(tree, size))
  return total, shared, joined(aux, tree, size)


def line_up(fn: Callable, tree: Any, size: int) -> Any:
  """Apply a function to each microbatch, and join its results [size, ...]."""
  if _is_whole(tree, size):
    return fn(tree)
  return joined(lax.map(fn, cut(tree, size)), tree, size)


def _is_whole(tree, size):
  return all(len(x) == size for x in jax.tree.leaves(tree))


def cut(tree: Any, size: int) -> Any:
  """Cut into microbatches, each of as many examples from every shard."""
  by_shard = _evenly(jax.tree.leaves(tree), size)

  def cut_leaf(x):
    if not by_shard:
      return x.reshape(-1, size, *x.shape[1:])
    return jnp.moveaxis(x.reshape(size, -1, *x.shape[1:]), 1, 0)

  return jax.tree.map(cut_leaf, tree)


def joined(results: Any, tree: Any, size: int) -> Any:
  """Join results of the microbatches of a tree, in the order of examples."""
  by_shard = _evenly(jax.tree.leaves(tree), size)

  def join(x):
    x = jnp.moveaxis(x, 0, 1) if by_shard else x
    return x.reshape(-1, *x.shape[2:])

  return jax.tree.map(join, results)


def _evenly(arrays, size):
  """Return whether shards, if there are any, can take part in equal number."""
  shards = math.gcd(len(arrays[0]), sharding.most_shards(arrays))
  return shards > 1 and size % shards == 0
