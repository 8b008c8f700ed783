"""Gram matrices of the workers' gradients, and weighted sums of them.

A rule that sees gradients through their inner products alone needs n² numbers
to decide, and the traffic of one all-reduce to act:

  all-to-all of D > partial Gram > psum of n² > weights > weighted sum of the
  slices > all-gather of D

The matrix is exact; neither n gradients in one place nor a second pass over
them is needed. *SimplexLab, `TorchJD <https://github.com/SimplexLab/TorchJD>`_*
lists many rules of this kind.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv import weightings
from gradiv._common import early_sums, trees
from gradiv.aggregation._exchange import finite, slices as slices_lib

Grams = tuple[jax.Array, ...]


def gram_matrices(
  slices: slices_lib.Slices, *, centered: bool = False
) -> tuple[Grams, jax.Array, jax.Array]:
  """Compute the Gram matrix of each group: one psum of n² numbers and n.

  Args:
    slices: This worker's slice of all gradients.
    centered: Compute the matrix of g_i − c instead, with c near the mean, so
      that distances between similar gradients stay exact. Workers that do not
      take part would spoil c: leave them out first (`Slices.keep_finite`).

  Returns:
    The matrices, [n + k, n + k] with the k extra trees last, in the order of
    the groups; which workers take part, [n]; and the number of gradients left
    out. Rows and columns of workers that do not take part are zero.
  """
  grams, present, num_left_out = finite.sum_with_presence(
    slices.contribution, own_parts(slices, centered=centered))
  return mask(grams, present), present, num_left_out


def own_parts(slices: slices_lib.Slices, *, centered: bool) -> Grams:
  """Compute this worker's part of the Gram matrix of each group."""
  participants = slices.contribution.participants
  size = participants.count + slices.num_extra
  grams = [jnp.zeros((size, size), jnp.float32)
           for _ in range(slices.plan.num_groups)]
  for bucket, rows, extra in zip(
      slices.plan.buckets, slices.rows, slices.extra):
    grams[bucket.group] += participants.layout.count_once(
      _gram_of_slice(rows, extra, centered), bucket.is_sharded)
  return tuple(grams)


def mask(grams: Grams, present: jax.Array) -> Grams:
  """Zero rows and columns of workers that do not take part."""
  def masked(gram):
    kept = weightings.with_extra(present, len(gram) - len(present))
    return jnp.where(kept[:, None] & kept[None, :], gram, 0)
  return tuple(map(masked, grams))


def gram_matrices_of_pair(
  contribution: finite.Contribution,
) -> tuple[Grams, jax.Array, jax.Array, optax.Updates]:
  """Compute the Gram matrices of two workers from the sum of their gradients.

  Each worker takes the inner product of its gradient with the rest of the
  sum. The one with the shorter gradient, whose rest loses less to rounding,
  is believed.

  Returns:
    As `gram_matrices`, and the sum of the gradients. Costs the all-reduce of
    the mean and one psum of 2 × 2 numbers per group.
  """
  participants, grads = contribution.participants, contribution.grads
  total = early_sums.sum_at_once(
    grads, contribution.is_finite, participants.names)
  rows = [jnp.zeros(2, jnp.float32)
          for _ in range(participants.num_groups(grads))]
  leaves = zip(jax.tree_util.tree_leaves_with_path(grads),
               jax.tree.leaves(total), participants.group_of_leaves(grads))
  for (path, g), s, group in leaves:
    # Elementwise, as in `trees.sq_norm`.
    dots = jnp.stack([trees.sq_norm(g), jnp.sum(g * (s - g))])
    rows[group] += participants.layout.count_once(
      dots, participants.layout.shards(path))
  own_rows = tuple(jnp.zeros((2, 2), jnp.float32).at[participants.index].set(
    row) for row in rows)
  rows, present, num_left_out = finite.sum_with_presence(
    contribution, own_rows)

  def gram(rows):
    squares = jnp.where(present, rows[:, 0], 0)
    across = jnp.where(present.all(), rows[jnp.argmin(squares), 1], 0)
    return jnp.where(jnp.eye(2, dtype=bool), squares, across)

  total = early_sums.leave_out(
    total, grads, contribution.is_finite, present.all(), participants.names)
  return tuple(map(gram, rows)), present, num_left_out, total


def is_pair(contribution: finite.Contribution) -> bool:
  """Return whether the sum of the gradients suffices, to float32 precision."""
  participants = contribution.participants
  return (participants.count == 2 and not participants.layout.mean_names
          and all(g.dtype == jnp.float32
                  for g in jax.tree.leaves(contribution.grads)))


def weighted_sums(
  slices: slices_lib.Slices, weights: Sequence[jax.Array] | jax.Array
) -> list[jax.Array]:
  """Sum the rows of each slice with the weights of its group, in float32."""
  return [weighted_sum(rows, extra, weights[bucket.group])
          for bucket, rows, extra in zip(
            slices.plan.buckets, slices.rows, slices.extra)]


def weighted_sum(
  rows: jax.Array, extra: jax.Array, weights: jax.Array
) -> jax.Array:
  """Sum the rows of one slice, [n, d] and [k, d], with weights [n + k]."""
  n = rows.shape[0]
  total = _weigh(weights[:n], rows)
  return total + _weigh(weights[n:], extra) if extra.shape[0] else total


def _gram_of_slice(rows, extra, centered):
  """Compute the Gram matrix of one slice, in float32 at full precision."""
  if centered:
    # Any center will do. Rows that are left out are zero, and do not shift it.
    count = jnp.sum(jnp.any(rows != 0, 1))
    rows = trees.widen(rows)
    center = rows.sum(0) / jnp.maximum(count, 1)
    rows = rows - center[None]
    extra = trees.widen(extra) - center[None] if extra.shape[0] else extra
  own = inner_products(rows, rows)
  if not extra.shape[0]:
    return own
  across = inner_products(rows, extra)
  return jnp.block([[own, across], [across.T, inner_products(extra, extra)]])


def inner_products(x: jax.Array, y: jax.Array) -> jax.Array:
  """Compute the inner products of rows [n, d] and [m, d], [n, m] float32."""
  if max(len(x), len(y)) < 4:
    # XLA:CPU (jaxlib <= 0.9) accumulates small dot products sequentially, with
    # a relative error of 5e-4 at 10⁶ elements; multiply elementwise instead.
    product = trees.widen(x)[:, None] * trees.widen(y)[None]
    return product.sum(-1).astype(jnp.float32)
  product = lax.dot_general(
    x, y, (((1,), (1,)), ((), ())), precision=lax.Precision.HIGHEST,
    preferred_element_type=trees.wide_dtype(x.dtype))
  return product.astype(jnp.float32)


def _weigh(weights, rows):
  rows = trees.widen(rows)
  return jnp.matmul(weights.astype(rows.dtype), rows,
                    precision=lax.Precision.HIGHEST)
