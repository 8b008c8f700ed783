"""Gram matrices and weighted sums of gradients that lie on one device.

Under `vmap` the gradients of n workers are the rows of one array. A rule then
needs two passes over the rows, and no slices: `products` has the same two for
workers on devices.
"""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv._common import trees
from gradiv.aggregation._exchange import products

# Columns of a block. On a CPU the rows of a block fit into a cache; another
# device needs large blocks, so that it has enough to do.
BLOCK, LARGE_BLOCK = 4096, 1 << 20
# Smaller leaves are joined, as each has a loop of its own.
SMALL_LEAF = 1 << 16


def gram_matrices(
  grads: optax.Updates, present: jax.Array, extra: Sequence[optax.Updates],
  groups: Sequence[int], num_groups: int, *, centered: bool,
) -> tuple[jax.Array, ...]:
  """Compute the Gram matrix of each group, [n + k, n + k].

  Args:
    grads: Leaves of the gradients, each [n, ...].
    present: Which workers take part, [n]. The rows and columns of the others
      are zero.
    extra: k trees, each leaf [...], which have the last rows.
    groups: Group of each leaf.
    num_groups: Number of groups.
    centered: Subtract the mean of the workers that take part first.
  """
  size = len(present) + len(extra)
  grams = [jnp.zeros((size, size), jnp.float32)] * num_groups
  center = _mean(grads, present) if centered else None
  for group, rows in _stacked(grads, extra, center, groups):
    grams[group] += _gram(rows, has_center=centered)
  kept = jnp.concatenate([present, jnp.ones(len(extra), bool)])
  both = kept[:, None] & kept[None, :]
  return tuple(jnp.where(both, gram, 0) for gram in grams)


def weighted_sum(
  grads: optax.Updates, present: jax.Array, extra: Sequence[optax.Updates],
  weights: Sequence[jax.Array] | jax.Array, groups: Sequence[int],
) -> optax.Updates:
  """Sum gradients, leaves [n, ...], with the weights of each leaf's group."""
  n = len(present)
  leaves, treedef = jax.tree.flatten(grads)
  others = [jax.tree.leaves(tree) for tree in extra]
  sums = []
  for i, leaf in enumerate(leaves):
    w = weights[groups[i]]
    total = _weigh(w[:n], leaf, present)
    for k, other in enumerate(others):
      total += w[n + k] * trees.widen(other[i])
    sums.append(total.astype(leaf.dtype))
  return treedef.unflatten(sums)


def _mean(grads, present):
  """Average the rows that take part; any center near them will do."""
  weights = present / jnp.maximum(present.sum(), 1)
  return jax.tree.map(lambda g: _weigh(weights, g, present), grads)


def _weigh(weights, rows, present):
  """Sum rows with weights; rows that do not take part may be NaN."""
  wide = trees.wide_dtype(rows.dtype)
  product = lambda rows: jnp.tensordot(
    weights.astype(wide), rows.astype(wide), axes=1,
    precision=lax.Precision.HIGHEST)
  shape = (len(rows),) + (1,) * (rows.ndim - 1)
  return lax.cond(
    present.all(), product,
    lambda rows: product(jnp.where(present.reshape(shape), rows, 0)), rows)


def _stacked(grads, extra, center, groups) -> Iterator[tuple[int, jax.Array]]:
  """Yield the group and the rows of leaves, [n + k (+ 1), d].

  The last row is the center, if there is one.
  """
  last = [] if center is None else [center]
  flat = [jax.tree.leaves(tree) for tree in (grads, *extra, *last)]
  small: dict = {}
  for i, group in enumerate(groups):
    leaf = flat[0][i]
    rows = jnp.concatenate([leaf.reshape(len(leaf), -1), *(
      other[i].reshape(1, -1).astype(leaf.dtype if center is None
                                     else trees.wide_dtype(leaf.dtype))
      for other in flat[1:])]) if len(flat) > 1 else leaf.reshape(
        len(leaf), -1)
    if rows.shape[1] < SMALL_LEAF:
      small.setdefault((group, rows.dtype), []).append(rows)
    else:
      yield group, rows
  for (group, _), parts in small.items():
    yield group, jnp.concatenate(parts, axis=1)


def _gram(rows, *, has_center):
  """Compute the Gram matrix of rows, minus the last if it is the center."""
  def by_blocks(size):
    def gram(rows):
      count, rest = divmod(rows.shape[1], size)
      block = lambda i: lax.dynamic_slice_in_dim(rows, i * size, size, axis=1)
      add = lambda i, total: total + _of_block(block(i), has_center)
      side = len(rows) - has_center
      total = jnp.zeros((side, side), jnp.float32)
      if count:
        total = lax.fori_loop(0, count, add, total)
      if rest:
        total += _of_block(rows[:, -rest:], has_center)
      return total
    return gram

  return lax.platform_dependent(
    rows, cpu=by_blocks(BLOCK), default=by_blocks(LARGE_BLOCK))


def _of_block(rows, has_center):
  if has_center:
    rows = trees.widen(rows)
    rows = rows[:-1] - rows[-1:]
  return products.inner_products(rows, rows)
