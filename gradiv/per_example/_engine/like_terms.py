"""Products that lie alike in a parameter, finished together by their factors.

A weight that is used twice has the gradient Σ_k u_k ⊗ v_k + Σ_l x_l ⊗ y_l.
Joining the positions k and l makes one product of it, cross terms included:
its norm is that of the sum, and the cost is one more row per position.
"""

import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gradiv.per_example._engine import (
  alike,
  costs,
  factors,
  squares as squares_of,
  terms as terms_of,
)
from gradiv.per_example._engine.chunks import add_up, in_chunks
from gradiv.per_example._engine.values import Atom

Data = terms_of.Data
Pair = tuple[Any, Any]  # u and v, each a `factors.Factor`


class LikeTerms:
  """Products at one place of a parameter: P_i = Σ_k u_k ⊗ v_k of example i.

  Attributes:
    terms: The products.
    num_examples: n.
    sizes: (z, k, a, b), with the positions of all terms.
    num_extra: Number of elements of the factors beyond those of the operands.
    way: How to compute the squared norms, and with them the sum.
    precision: Precision of the products, the highest where they differ.
  """

  def __init__(self, terms: Sequence[terms_of.Term], num_examples: int):
    # The most precise first: the casts behind it are those that the sum of all
    # goes through.
    self.terms = sorted(terms, key=lambda term: -term.mantissa)
    self.num_examples = num_examples
    asked = {term.product.precision for term in terms}
    self.precision = (asked.pop() if len(asked) == 1
                      else lax.Precision.HIGHEST)
    z, _, a, b = self.terms[0].sizes
    if self.terms[0].place[1]:
      a, b = b, a
    k = sum(term.sizes[1] for term in self.terms)
    self.sizes = z, k, a, b
    self.num_extra = sum(term.num_extra for term in self.terms)
    sparse = all(term.product.is_sparse for term in self.terms)
    hot = self.terms[0].sizes[2] if sparse else 0  # see `costs.ways`
    self.way = costs.best(
      costs.ways(num_examples, self.sizes, self.num_extra, hot))

  @property
  def operands(self) -> list[Atom]:
    """The values that the products are made of."""
    return [x for term in self.terms for x in term.operands]

  @functools.cached_property
  def _recipe(self) -> alike.Recipe | None:
    return alike.recipe(self)

  def sums_as_alike(
    self, data: Data, scale: jax.Array | None = None
  ) -> tuple[jax.Array, jax.Array]:
    """Do as `sums`, traced once for all products that are alike."""
    if self._recipe is None:
      return self.sums(data, scale)
    return alike.sums(
      self._recipe, [data[x] for x in dict.fromkeys(self.operands)], scale)

  def sums(
    self, data: Data, scale: jax.Array | None = None
  ) -> tuple[jax.Array, jax.Array]:
    """Compute Σ_i P_i, like the parameter, times `scale` if any; and ‖P_i‖².

    The squares are [n, ...], still to be added up over what is behind n.
    """
    block, squares = self._blocks(data, scale)
    return self.put(block), squares

  def blocks(self, data: Data) -> tuple[Any, jax.Array]:
    """Compute Σ_i P_i as [z, a, b], and ‖P_i‖²: [n]."""
    block, squares = self._blocks(data, None)
    return block, jnp.maximum(squares_of.total(squares), 0)

  def rows(self, data: Data) -> jax.Array:
    """Write the products of all examples out: [n, z, a, b]."""
    data, (z, _, a, b) = {x: data[x] for x in self.operands}, self.sizes
    return in_chunks(lambda data: ((), self.write_out(data)), data,
                     z * a * b + self.num_extra)[1]

  def write_out(self, data: Data) -> Any:
    """Write the products out, of however many examples: [n, z, a, b]."""
    return functools.reduce(operator.add, [
      factors.product(u, v, self.precision, self.turned)
      for u, v in self.pairs(data)])

  @property
  def turned(self) -> str:
    """The factor that lies with its positions last, 'a' or 'b', if any."""
    term, *others = self.terms
    turned = '' if others else term.product.turned
    return {'a': 'b', 'b': 'a'}.get(turned, '') if term.place[1] else turned

  def _blocks(self, data, scale) -> tuple[Any, jax.Array]:
    data, (z, _, a, b) = {x: data[x] for x in self.operands}, self.sizes
    pairs: list[Pair] = []
    if self.way.name == 'direct':
      total, squares = in_chunks(
        self._written_out, data, z * a * b + self.num_extra)
    elif self.num_extra:
      # In a loop, because XLA would otherwise write the patches where it first
      # can, in the forward pass, and hold those of all layers.
      total, squares = in_chunks(self._by_pairs, data, self.num_extra)
    else:
      pairs = self.pairs(data)
      total, squares = None, self._squares(pairs)
    if total is None:
      pairs = pairs or self.pairs(data)
      if scale is not None and all(
          factors.dtype_of(*pair).itemsize >= 4 for pair in pairs):
        # Scaling a factor rather than the sum saves writing the sum twice. Not
        # in bfloat16, where 1/n may be off by 0.4 % for all examples alike.
        pairs, scale = [_scaled(pair, scale) for pair in pairs], None
      total = self._sum_of(pairs)
    return total if scale is None else total * scale, squares

  def _by_pairs(self, data):
    pairs = self.pairs(data)
    return self._sum_of(pairs), self._squares(pairs)

  def _squares(self, pairs):
    """Compute ‖P_i‖² from inner products of the factors: [n, ...]."""
    if self.way.name == 'outer':
      (u, v), = pairs
      return factors.sq_norms(u) * factors.sq_norms(v)
    parts = factors.sq_norms_of_sum(pairs)
    if len(parts) == 1 and not self.num_extra:
      return squares_of.kept(parts[0])
    # A sum of numbers of either sign: where they cancel, rounding is left.
    return jnp.maximum(sum(map(squares_of.total, parts)), 0)

  def _sum_of(self, pairs):
    return functools.reduce(operator.add, [
      factors.product_sum(u, v, self.precision) for u, v in pairs])

  def _written_out(self, data):
    """Write the products out; return their sum, if cheap, and ‖P_i‖²."""
    block = self.write_out(data)
    squares = jnp.sum(jnp.square(block), (1, 2, 3))
    if any(term.product.is_sparse for term in self.terms):
      # Few rows of each product are not zero: cheaper to sum from the factors.
      return None, squares
    return add_up(block), squares

  def pairs(self, data: Data) -> list[Pair]:
    """Make the factors, joining those of one kind along their positions.

      u [n, z, k, a], x [n, z, l, a]  ──►  [n, z, k + l, a], likewise v and y

    Dense factors and `OneHot` ones stay apart, as the embedding and the logits
    of tied weights: up to four pairs remain.
    """
    by_kind: dict[tuple, list[Any]] = {}
    for term in self.terms:
      pair = term.factors([data[x] for x in term.operands])
      if term.place[1]:
        pair = pair[::-1]
      kind = tuple(isinstance(x, factors.OneHot) for x in pair)
      by_kind.setdefault(kind, []).append(pair)
    join = lambda *xs: jnp.concatenate(
      [x.astype(jnp.result_type(*xs)) for x in xs], 2)
    return [jax.tree.map(join, *pairs) if len(pairs) > 1 else pairs[0]
            for pairs in by_kind.values()]

  def put(self, block: jax.Array) -> jax.Array:
    """Bring [z, a, b] into the shape of the parameter."""
    term = self.terms[0]
    return term.put(
      jnp.swapaxes(block, 1, 2) if term.place[1] else block, {})


def _scaled(pair, scale):
  """Multiply one factor, a dense one, by a number."""
  u, v = pair
  if isinstance(v, factors.OneHot):
    return _scaled((v, u), scale)[::-1]
  return u, (v * scale).astype(v.dtype)
