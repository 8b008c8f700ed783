"""Products and an array, like the parameter, that all examples have in common.

The array is what gradients have in common, or the weights of a norm.
"""

from typing import Any

import jax
import jax.numpy as jnp

from gradiv._common import compat, trees
from gradiv.per_example._engine import factors
from gradiv.per_example._engine.chunks import in_chunks
from gradiv.per_example._engine.like_terms import Data, LikeTerms


def inner(products: LikeTerms, data: Data, common: jax.Array) -> Any:
  """Compute ⟨P_i, C⟩ with an array C like the parameter: [n].

  ⟨put(P), C⟩ = ⟨P, putᵀ(C)⟩, so C is brought into blocks [z, a, b] once.
  """
  block = _as_block(products, common)
  return sum(factors.inner_common(u, v, block) for u, v in products.pairs(data))


def sq_norms_in(
  products: LikeTerms, data: Data, metric: jax.Array
) -> jax.Array:
  """Compute Σ d P_i² with weights d like the parameter: [n].

  With one position (u v)² is u² v², so this is an inner product of d with a
  product of squares. If u is one-hot, d weighs the rows of v. Otherwise the
  products are written out.
  """
  data, (z, _, a, b) = {x: data[x] for x in products.operands}, products.sizes
  block = _as_block(products, metric)
  kinds = [term.product.is_sparse for term in products.terms]

  def of_squares(data):
    (u, v), = products.pairs(data)
    return (), factors.inner_common(
      factors.squared(u), factors.squared(v), block)

  def of_rows(data):
    (u, v), = products.pairs(data)
    turned = isinstance(v, factors.OneHot)
    u, v = (v, u) if turned else (u, v)
    weighted = factors.weighted_rows(
      u, v, jnp.swapaxes(block, 1, 2) if turned else block)
    both = factors.inner(u, u) * factors.inner(weighted, trees.widen(v))
    return (), jnp.maximum(jnp.sum(both, (-1, -2, -3)), 0)

  def written_out(data):
    return (), jnp.sum(
      jnp.square(products.write_out(data)) * block[None], (1, 2, 3))

  if products.way.name == 'outer':
    return in_chunks(of_squares, data, max(products.num_extra, 1))[1]
  if products.way.name == 'gram' and kinds == [True]:
    return of_rows(data)[1]
  return in_chunks(written_out, data, z * a * b + products.num_extra)[1]


def _as_block(products, array):
  """Bring an array like the parameter into a block [z, a, b]."""
  z, _, a, b = products.sizes
  array = trees.widen(array)
  zeros = compat.zeros_of(
    (z, a, b), array.dtype, compat.varying_axes(array))
  put = lambda block: products.put(block).astype(array.dtype)
  (block,) = jax.linear_transpose(put, zeros)(array)
  return block
