"""One parameter: its statistics, by the way that `strategy` chooses."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradiv._common import trees
from gradiv.per_example._engine import (
  common_arrays,
  costs,
  cut,
  factor_maps,
  grams,
  inside_loop,
  squares as squares_of,
  strategy,
  written_rows as rows_of,
)
from gradiv.per_example._engine.chunks import add_up, in_chunks
from gradiv.per_example._engine.terms import Term
from gradiv.per_example._engine.values import Atom, Inner, Value


class Leaf:
  """One parameter, a leaf of the tree of parameters.

  Attributes:
    value: Its gradient in the program.
    num_examples: n.
    shape: Shape of the parameter.
    dtype: Dtype of its gradient.
    size: Number of its elements.
    kind: The way its statistics are computed, one of `strategy`.
    reason: Why the kind is not 'products'.
    terms: What the gradient is the sum of.
    like_terms: Its products, those together that lie alike.
    contracted: The gradient as contractions, or None.
    width: Numbers to write out per example, where the kind is not 'products'.
  """

  def __init__(
    self, cutter: cut.Cutter, value: Value, num_examples: int,
    num_parameters: int,
  ):
    self.value, self.num_examples = value, num_examples
    self.shape, self.dtype = value.aval.shape, value.aval.dtype
    self.size = math.prod(self.shape)
    self.terms = factor_maps.through_matrices(
      cutter.program, cutter.terms(value)) if self.size > 0 else []
    # A small parameter may have large products behind it: the gain of a weight
    # normalization is the norm of one.
    self.width = max([self.size, *(
      z * a * b for term in self.terms if term.product
      for z, _, a, b in [term.sizes])])
    self.kind, self.reason, self.like_terms, self.contracted = (
      strategy.choose(
        cutter.program, value, self.terms, num_examples, self.width,
        room=max(num_parameters, costs.WHOLE)))
    if self.kind in ('example', 'fallback'):
      self.terms = [Term((value,))]
    elif self.kind == 'mixture':
      self.width += max([0, *(
        term.num_extra for term in self.terms if term.product)])
    self._num_held = strategy.count(cutter.program, self.terms)

  @functools.cached_property
  def in_loop(self) -> Inner | None:
    """The sums inside of a loop, if all of the gradient is made in one."""
    if self.kind != 'products' or len(self.like_terms) > 1 or self.common:
      return None
    return inside_loop.request(self.like_terms[0])

  @property
  def batched(self) -> list[Atom]:
    """The values that are needed for each example."""
    if self.kind == 'fallback':
      return []
    return [x for term in self.terms if not term.is_common
            for x in term.operands]

  @property
  def common(self) -> list[Atom]:
    """The values that are needed once, being the same for all examples."""
    found = [x for term in self.terms if term.is_common
             for x in term.operands]
    if self.contracted:
      found += self.contracted.common
    return found + [x for term in self.terms for op in term.ops
                    for x in op.common]

  def sums(
    self, data: Any, scale: jax.Array | None = None,
    metric: jax.Array | None = None,
  ) -> tuple[jax.Array | None, jax.Array]:
    """Compute a sum over the examples, and ‖g_i‖².

    Args:
      data: `Data` of the trace.
      scale: Number to multiply the sum by, or None.
      metric: Weights d, like the parameter, for ‖g‖² = Σ d g².

    Returns:
      Σ g_i, times `scale` if any, without terms that are common, for which see
      `shared`, and None if there is nothing else; and ‖g_i‖², with them, in
      parts: [n, ...], for `squares.add_up`.
    """
    if metric is None and self.in_loop in data.batched:
      blocks, squares = data.batched[self.in_loop]
      return inside_loop.read(self.like_terms[0], blocks, squares, scale)
    shared = self.shared(data)
    if self.kind == 'common':
      square = _sq_norm(shared, metric)
      return None, jnp.broadcast_to(square, (self.num_examples,))
    if self.kind == 'products':
      return self._sums_of_products(data, scale, shared, metric)

    if self.contracted and metric is None:
      return self._sums_of_contracted(self.contracted, data, scale)
    if shared is None and metric is None and self.kind == 'example' and (
        len(self.batched) == 1):
      return rows_of.sums(
        data.batched[self.batched[0]], scale, costs.limits())
    weight = None if metric is None else metric[None]

    def part(rows):
      own = rows if shared is None else rows + shared[None]
      return rows_of.scaled(add_up(rows), scale), squares_of.total(
        rows_of.squared(own, weight))

    return self.in_chunks(part, data)

  def _sums_of_contracted(self, contracted, data, scale):
    own = data.batched, data.common
    if not self.like_terms:
      rows = contracted.rows(*own)
      return rows_of.scaled(add_up(rows), scale), rows_of.squared(rows, None)
    (products,) = self.like_terms
    total, squares = products.sums_as_alike(data.batched, scale)
    more, square = contracted.more(*own)
    return (total + rows_of.scaled(more, scale).astype(total.dtype),
            squares_of.total(squares) + square)

  def _sums_of_products(self, data, scale, shared, metric):
    """Compute Σ P_i and ‖P_i + C‖² = ‖P_i‖² + 2⟨P_i, C⟩ + ‖C‖²."""
    total: Any = None
    squares: Any = 0.
    along = shared
    if metric is not None and shared is not None:
      along = metric * shared
    for products in self.like_terms:
      more, square = products.sums_as_alike(data.batched, scale)
      if metric is not None:
        square = common_arrays.sq_norms_in(products, data.batched, metric)
      total = more if total is None else total + more
      if len(self.like_terms) == 1 and along is None:
        return total, square
      squares += squares_of.total(square)
      if along is not None:
        squares += 2 * common_arrays.inner(
          products, data.batched, along)
    if shared is not None:
      squares += _sq_norm(shared, metric)
    return total, squares

  @property
  def _keeps_products(self) -> bool:
    """Whether products that norms are computed from are kept for `weighted`.

    They are if the norms need them written out, and they are no larger than
    what they are made of, which is then not needed any more.
    """
    if self.kind != 'products' or len(self.like_terms) > 1 or self.common or (
        self.dtype.itemsize < 4):
      return False
    (products,) = self.like_terms
    z, _, a, b = products.sizes
    return products.way.name == 'direct' and z * a * b <= self._num_held and (
      not any(term.product.is_sparse for term in products.terms))

  def norms(self, data: Any) -> tuple[jax.Array, jax.Array | None]:
    """Compute ‖g_i‖² in parts, and products to keep for `weighted`, if any."""
    if not self._keeps_products:
      return self.sums(data)[1], None
    products = self.like_terms[0].rows(data.batched)
    return squares_of.total(jnp.square(products)), products

  def weighted(self, data: Any, weights: jax.Array) -> jax.Array:
    """Compute Σ w_i g_i, leaving out examples of weight zero."""
    if self.value in data.products:
      products = data.products[self.value]
      return self.like_terms[0].put(add_up(rows_of.weigh(
        products, weights.astype(products.dtype)))).astype(self.dtype)
    shared = self.shared(data)
    weights = weights.astype(trees.wide_dtype(self.dtype))
    common: Any = 0 if shared is None else jnp.sum(weights) * shared
    if self.kind == 'common':
      return common.astype(self.dtype)
    if self.kind == 'fallback':
      def part(rows, weights):
        return add_up(rows_of.weigh(rows, weights)), weights
      total, _ = self.in_chunks(part, data, weights)
    else:
      total: Any = 0
      for term in self.terms:
        if not term.is_common:
          arrays = [rows_of.keep_some(data.batched[x], weights != 0)
                    for x in term.operands]
          arrays[term.scaled] = rows_of.weigh(arrays[term.scaled], weights)
          total += term.add_up(arrays, data.common)
    return (total + common).astype(self.dtype)

  def gram(self, data: Any) -> jax.Array:
    """Compute ⟨g_i, g_j⟩: [n, n]."""
    return grams.of_leaf(self, data)

  def shared(self, data: Any) -> jax.Array | None:
    """Add the terms that are common to all examples; None if there are none."""
    parts = [term.add_up([data.common[x][None] for x in term.operands],
                         data.common)
             for term in self.terms if term.is_common]
    if not parts and self.kind == 'common':
      return jnp.zeros(self.shape, self.dtype)
    return sum(parts[1:], parts[0]) if parts else None

  def _rows(self, data):
    """Write the gradients out, without common terms: [n, *shape]."""
    if self.kind == 'fallback':
      (rows,) = data.recompute([self.value], data.examples)
      return rows_of.keep_some(rows, data.mask)
    rows = 0
    for term in self.terms:
      if not term.is_common:
        rows += term.rows([data.batched[x] for x in term.operands],
                          data.common)
    return rows

  def in_chunks(self, part: Callable, data: Any, *more: jax.Array) -> Any:
    """Apply `part` to the gradients, written out for some at a time."""
    source = ({'examples': data.examples} if self.kind == 'fallback'
              else {x: data.batched[x] for x in self.batched})

    def chunk(arrays):
      own = dict(arrays)
      more, mask = own.pop('more'), own.pop('mask')
      examples = own.pop('examples', None)
      own = data._replace(batched=own, examples=examples, mask=mask)
      return part(self._rows(own), *more)

    return in_chunks(
      chunk, source | {'more': more, 'mask': data.mask}, self.width)


def _sq_norm(x, metric):
  return trees.sq_norm(x) if metric is None else jnp.sum(
    rows_of.squared(x, metric))
