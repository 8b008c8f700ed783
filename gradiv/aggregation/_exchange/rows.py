"""Gram matrices and weighted sums of gradients that lie on one device.

Under `vmap` the gradients of n workers are the rows of one array. A rule then
needs two passes over the rows, and no slices: `products` has the same two for
workers on devices.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv._common import trees, usable_rows
from gradiv.aggregation._exchange import products

# On a CPU one core copies a block and multiplies it, so it has to fit into the
# cache of that core. XLA has several cores copy a larger one. Another device
# needs blocks of many columns, so that it has enough to do.
BLOCK_ELEMENTS, FEWEST_COLUMNS = 1 << 15, 256
LARGE_BLOCK = 1 << 20
# From 16 rows on, a CPU computes the matrices of 64 blocks as one batched
# product, whose parts XLA spreads over the cores. Fewer blocks it does not.
MANY_ROWS, BATCH = 16, 64
# Blocks whose matrices are summed apart: one sum over thousands of blocks loses
# digits.
BLOCKS_AT_ONCE = 32
# Smaller leaves are joined, as each has a loop of its own.
SMALL_LEAF = 1 << 16


def gram_matrices(
  grads: optax.Updates, n: int, extra: Sequence[optax.Updates],
  groups: Sequence[int], num_groups: int, *, centered: bool,
) -> tuple[tuple[jax.Array, ...], jax.Array]:
  """Compute the Gram matrix of each group, and learn which gradients take part.

  Args:
    grads: Leaves of the gradients, each [n, ...].
    n: Number of gradients.
    extra: k trees, each leaf [...], which have the last rows.
    groups: Group of each leaf.
    num_groups: Number of groups.
    centered: Subtract the mean of the gradients that take part first.

  Returns:
    The matrices, [n + k, n + k], with zeros beside gradients that do not take
    part; and which do, [n].
  """
  zero = jnp.zeros((n + len(extra),) * 2, jnp.float32)

  def around(center):
    grams = [zero] * num_groups
    for group, piece in _pieces(grads, extra, center, groups):
      grams[group] += _gram(piece)
    return tuple(grams)

  if centered:
    present, grams = _centered(grads, n, around)
  else:
    grams = around(None)
    present = trees.is_usable(_squares(grams, n))
  kept = jnp.concatenate([present, jnp.ones(len(extra), bool)])
  both = kept[:, None] & kept[None, :]
  return tuple(jnp.where(both, gram, 0) for gram in grams), present


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


def _squares(grams, n):
  """Return the squared norms of n gradients over all groups."""
  return sum((jnp.diagonal(gram)[:n] for gram in grams),
             jnp.zeros(n, jnp.float32))


def _centered(grads, n, around):
  """Return which gradients take part, and their matrices around their mean.

  Norms take one more pass over all gradients, and without them nobody knows
  whose mean to subtract. So all are taken to be usable. That is certain if the
  mean is short, and all distances from it are; otherwise norms decide.
  """
  everyone, half = jnp.ones(n, bool), usable_rows.CERTAIN_NORM / 2
  center = _mean(grads, everyone)
  size = sum(x.size for x in jax.tree.leaves(center))
  grams = around(center)
  is_right = usable_rows.all_within(
    center, usable_rows.largest_element(half, size)) & jnp.all(
      _squares(grams, n) <= half**2)

  def by_norms():
    present = usable_rows.are_usable(grads, n)
    return present, around(_mean(grads, present))

  return usable_rows.unless(is_right, by_norms, (everyone, grams))


def _mean(grads, present):
  """Average the rows that take part; any center near them will do."""
  weights = present / jnp.maximum(present.sum(), 1)
  return jax.tree.map(lambda g: _weigh(weights, g, present), grads)


def _weigh(weights, rows, present):
  """Sum rows with weights; rows that do not take part may be NaN."""
  weights = weights.astype(trees.wide_dtype(rows.dtype))

  def one_by_one():
    row = lambda i: jnp.where(present[i], weights[i] * trees.widen(rows[i]), 0)
    return lax.fori_loop(
      1, len(rows), lambda i, total: total + row(i), row(0))

  return usable_rows.unless(
    present.all(), one_by_one, lax.platform_dependent(
      weights, rows, cpu=_row_or_sum, default=_sum))


def _row_or_sum(weights, rows):
  """Sum rows with weights, and read one row alone if no other has a weight."""
  def one_row(weights, rows):
    chosen = jnp.argmax(weights != 0)
    return weights[chosen] * trees.widen(rows[chosen])

  return lax.cond((weights != 0).sum() == 1, one_row, _sum, weights, rows)


def _sum(weights, rows):
  return jnp.tensordot(weights, trees.widen(rows), axes=1,
                       precision=lax.Precision.HIGHEST)


class _Piece(NamedTuple):
  """Rows of one leaf, or of several that are small.

  Attributes:
    rows: Those of the workers, [n, d].
    extra: Those of the extra trees, [k, d].
    center: What is subtracted from all, [1, d], or None.
  """

  rows: jax.Array
  extra: jax.Array
  center: jax.Array | None

  def block(self, first: jax.Array | int, size: int) -> jax.Array:
    """Return some columns of all rows, [n + k, size]."""
    cut = lambda x: lax.dynamic_slice_in_dim(x, first, size, axis=-1)
    rows = cut(self.rows)
    if self.center is not None:
      rows = trees.widen(rows) - cut(self.center)
    if not len(self.extra):
      return rows
    extra = cut(self.extra)
    if self.center is not None:
      extra = trees.widen(extra) - cut(self.center)
    return jnp.concatenate([rows, extra])


def _pieces(grads, extra, center, groups) -> Iterator[tuple[int, _Piece]]:
  """Yield the group and the rows of each leaf, small ones joined."""
  leaves = jax.tree.leaves(grads)
  others = [jax.tree.leaves(tree) for tree in extra]
  centers: list[Any] = (
    [None] * len(leaves) if center is None else jax.tree.leaves(center))
  small: dict = {}
  for i, (leaf, group) in enumerate(zip(leaves, groups)):
    flat = [other[i].ravel() for other in others]
    piece = _Piece(
      leaf.reshape(len(leaf), -1),
      jnp.stack(flat) if flat else jnp.zeros((0, leaf[0].size), leaf.dtype),
      None if center is None else centers[i].reshape(1, -1))
    if piece.rows.shape[1] < SMALL_LEAF:
      small.setdefault((group, leaf.dtype), []).append(piece)
    else:
      yield group, piece
  for (group, _), pieces in small.items():
    yield group, jax.tree.map(
      lambda *parts: jnp.concatenate(parts, axis=-1), *pieces)


def _gram(piece: _Piece) -> jax.Array:
  """Compute the Gram matrix of a piece, block by block."""
  side, width = len(piece.rows) + len(piece.extra), piece.rows.shape[1]

  def by_blocks(columns, batch=1):
    def gram(piece):
      zero = jnp.zeros((side, side), jnp.float32)
      size = columns * batch
      own = lambda i: _gram_of_blocks(piece.block(i * size, size), batch)

      def add(i, sums):
        total, part = sums[0], sums[1] + own(i)
        is_last = (i + 1) % BLOCKS_AT_ONCE == 0
        return (jnp.where(is_last, total + part, total),
                jnp.where(is_last, zero, part))

      count, rest = divmod(width, size)
      total = zero
      if count:
        total, part = lax.fori_loop(0, count, add, (zero, zero))
        total += part
      if rest:
        total += _gram_of_blocks(piece.block(width - rest, rest), 1)
      return total
    return gram

  on_cpu = (by_blocks(FEWEST_COLUMNS, BATCH) if side >= MANY_ROWS else
            by_blocks(max(FEWEST_COLUMNS, BLOCK_ELEMENTS // side)))
  # A center, or more rows, are put beside the rows one block at a time.
  is_plain = piece.center is None and not len(piece.extra)
  return lax.platform_dependent(
    piece, cpu=on_cpu,
    default=by_blocks(max(width, 1) if is_plain else LARGE_BLOCK))


def _gram_of_blocks(rows, count):
  """Compute the Gram matrix of rows [n, d] by `count` blocks of columns."""
  if count == 1:
    return products.inner_products(rows, rows)
  blocks = rows.reshape(len(rows), count, -1).swapaxes(0, 1)
  return jax.vmap(products.inner_products)(blocks, blocks).sum(0)
