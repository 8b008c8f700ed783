"""Inner products ⟨g_i, g_j⟩ of the gradients of all examples."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gradiv._common import trees
from gradiv.per_example._engine import common_arrays, costs, factors
from gradiv.per_example._engine.chunks import in_chunks
from gradiv.per_example._engine.like_terms import Data, LikeTerms


def of_leaf(leaf: Any, data: Any) -> jax.Array:
  """Compute ⟨g_i, g_j⟩ of one parameter, a `leaves.Leaf`: [n, n]."""
  n, shared = leaf.num_examples, leaf.shared(data)
  square = 0. if shared is None else trees.sq_norm(shared)
  if leaf.kind == 'common':
    return jnp.broadcast_to(square, (n, n))
  if leaf.kind == 'products':
    total: Any = sum(of_products(products, data.batched)
                     for products in leaf.like_terms)
    if shared is not None:
      along: Any = sum(common_arrays.inner(products, data.batched, shared)
                       for products in leaf.like_terms)
      total += along[:, None] + along[None, :] + square
    return total
  flat = lambda rows: trees.widen(
    rows if shared is None else rows + shared[None]).reshape(len(rows), -1)
  if n * leaf.size <= max(costs.room(), costs.WHOLE):
    rows = leaf.in_chunks(lambda rows: ((), rows), data)[1]
    return of_rows(flat(rows))

  # Chunks against chunks: the gradients of all examples do not fit.
  def part(rows):
    rows = flat(rows)
    across = lambda more: ((), jnp.matmul(
      flat(more), rows.T, precision=lax.Precision.HIGHEST))
    return (), leaf.in_chunks(across, data)[1].T

  return leaf.in_chunks(part, data)[1]


def of_products(products: LikeTerms, data: Data) -> jax.Array:
  """Compute ⟨P_i, P_j⟩: [n, n], by the factors or by slices of P_i."""
  n, (z, k, a, b) = products.num_examples, products.sizes
  pairs = products.pairs(data)
  dense = not any(term.product.is_sparse for term in products.terms)
  by_factors = 2 * n * n * z * k * k * (a + b + 64)
  written = 2 * n * n * z * a * b + 64 * n * z * a * b
  if not dense or by_factors < written or k == 1:
    return _by_factors(pairs, n, z * k * k)
  # Slices of the longer side: of the shorter one, they would be narrow.
  pairs = pairs if a < b else [(v, u) for u, v in pairs]
  short, long = sorted((a, b))
  first, width = costs.chunk(long, n * z * short)

  def part(start, width):
    block: Any = sum(
      factors.product(u, lax.dynamic_slice_in_dim(v, start, width, -1),
                      products.precision)
      for u, v in pairs)
    return of_rows(block.reshape(n, -1))

  if first == long:
    return part(0, long)
  return lax.scan(lambda total, start: (total + part(start, width), None),
                  part(0, first), jnp.arange(first, long, width))[0]


def _by_factors(pairs, n, numbers):
  """Compute [n, n] from inner products of factors, some rows at a time."""
  def part(rows):
    total: Any = 0
    for u, v in rows['pairs']:
      for x, y in pairs:
        both = factors.inner_across(u, x) * factors.inner_across(v, y)
        total += jnp.sum(both, (-1, -2, -3))
    return (), total

  return in_chunks(part, {'pairs': pairs}, n * numbers)[1]


def of_rows(rows: jax.Array) -> jax.Array:
  """Compute the Gram matrix of rows [n, d]."""
  return jnp.matmul(rows, rows.T, precision=lax.Precision.HIGHEST)
