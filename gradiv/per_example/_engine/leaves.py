"""One leaf of the gradient: which way its statistics are had, and had there.

  common    the same for all examples: a penalty on the parameters, or zero
  example   written out for each example: no product, or no larger than what
            makes it, and small
  products  from the factors of its products, which are never written out
  mixture   of products behind other linear equations: written out in chunks
  fallback  what would have to be held of all examples is too large: the
            gradient is computed anew, in chunks
"""

import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gradiv._common import trees
from gradiv.per_example._engine import (
  costs,
  cut,
  like_terms as groups_lib,
  program as program_lib,
  terms as pieces_lib,
)


class Leaf:
  """What to do about one leaf.

  Attributes:
    value: The leaf in the program.
    kind: See above.
    pieces: What it is the sum of.
    groups: The products, those together that lie alike.
    num_held: How many numbers the products of all examples are made of.
    width: How many are written out for an example where it is not products.
    reason: Why not 'products', where it is not.
  """

  def __init__(
    self, cutter: cut.Cutter, value: program_lib.Value, num_examples: int,
    num_parameters: int,
  ):
    self.value, self.num_examples = value, num_examples
    self.shape, self.dtype = value.aval.shape, value.aval.dtype
    self.size = math.prod(self.shape)
    self.pieces = cutter.pieces(value) if self.size else []
    self.groups: list[groups_lib.Group] = []
    self.num_held = self.num_examples * sum(
      math.prod(program_lib.shape_and_dtype(cutter.program, x)[0])
      for piece in self.pieces if piece.view for x in piece.operands)
    # A small leaf may be made of large products, as the norms of a weight are.
    self.width = max([self.size, *(
      z * a * b for piece in self.pieces if piece.view
      for z, _, a, b in [piece.sizes])])
    self.kind, self.reason = self._choose(
      cutter, max(num_parameters, costs.WHOLE))
    if self.kind in ('example', 'fallback'):
      self.pieces = [pieces_lib.Piece((value,))]

  def _choose(self, cutter, room):
    products = [piece for piece in self.pieces if piece.view]
    if all(piece.is_common for piece in self.pieces):
      return 'common', ''
    fits = self.num_examples * self.size <= room
    if not products:
      if fits:
        return 'example', 'not a product; small enough to be written out'
      return 'fallback', f'no product behind {_maker(cutter, self.value)}'
    others = [op.name for piece in products for op in piece.ops
              if not op.isometric]
    whole = [piece for piece in self.pieces
             if not piece.view and not piece.is_common]
    self.groups = self._group(products)
    apart = all(pieces_lib.disjoint(one.pieces[0], other.pieces[0])
                for one, other in itertools.combinations(self.groups, 2))
    if not others and not whole and apart:
      return 'products', ''
    why = (f'{others[0]} behind a product' if others else
           'a summand that is no product' if whole else
           'products that lie differently')
    if self.num_examples * self.width <= min(
        room, max(self.num_held, costs.room())):
      return 'example', f'{why}; no larger than its operands'
    # It would be held of all examples at once.
    written = sum(math.prod(program_lib.shape_and_dtype(cutter.program, x)[0])
                  for piece in whole for x in piece.operands)
    if self.num_examples * written > room:
      return 'fallback', why
    return 'mixture', why

  def _group(self, products):
    alike: dict[Any, list] = {}
    for piece in products:
      alike.setdefault(piece.place[0], []).append(piece)
    return [groups_lib.Group(pieces, self.num_examples)
            for pieces in alike.values()]

  @functools.cached_property
  def in_loop(self) -> program_lib.Inner | None:
    """Ask for sums inside a loop, where all of the leaf is made in one."""
    if self.kind != 'products' or len(self.groups) > 1 or self.common:
      return None
    return self.groups[0].in_loop()

  @property
  def batched(self) -> list[program_lib.Atom]:
    """List the values that are needed for each example."""
    if self.kind == 'fallback':
      return []
    return [x for piece in self.pieces if not piece.is_common
            for x in piece.operands]

  @property
  def common(self) -> list[program_lib.Atom]:
    """List the values that are needed once."""
    found = [x for piece in self.pieces if piece.is_common
             for x in piece.operands]
    return found + [x for piece in self.pieces for op in piece.ops
                    for x in op.extra]

  def sums(
    self, data: Any, scale: jax.typing.ArrayLike = 1.
  ) -> tuple[jax.Array | None, jax.Array]:
    """Compute Σ g_i times `scale`, without what is common, and ‖g_i‖²: [n]."""
    if self.in_loop in data.batched:
      return self.groups[0].from_loop(*data.batched[self.in_loop], scale)
    shared = self.shared(data)
    if self.kind == 'common':
      square = trees.sq_norm(shared)
      return None, jnp.broadcast_to(square, (self.num_examples,))
    if self.kind == 'products':
      total, squares = None, 0.
      for group in self.groups:
        more, square = group.sums(data.batched, scale)
        total = more if total is None else total + more
        squares += square
        if shared is not None:
          squares += 2 * group.inner(data.batched, shared)
      if shared is not None:
        squares += trees.sq_norm(shared)
      return total, squares

    def part(rows):
      own = rows if shared is None else rows + shared[None]
      return groups_lib.add_up(rows) * scale, jnp.sum(
        jnp.square(trees.widen(own)).reshape(len(own), -1), -1)

    return self._in_chunks(part, data)

  def weighted(self, data: Any, weights: jax.Array) -> jax.Array:
    """Compute Σ w_i g_i; what is given weight zero is left out."""
    shared = self.shared(data)
    weights = weights.astype(trees.wide_dtype(self.dtype))
    common = 0 if shared is None else jnp.sum(weights) * shared
    if self.kind == 'common':
      return common.astype(self.dtype)
    if self.kind == 'fallback':
      def part(rows, weights):
        return groups_lib.add_up(_weigh(rows, weights)), weights
      total, _ = self._in_chunks(part, data, weights)
    else:
      total = 0
      for piece in self.pieces:
        if not piece.is_common:
          arrays = [keep_some(data.batched[x], weights != 0)
                    for x in piece.operands]
          place = piece.view.linear if piece.view else 0
          arrays[place] = _weigh(arrays[place], weights)
          total += piece.add_up(arrays, data.common)
    return (total + common).astype(self.dtype)

  def gram(self, data: Any) -> jax.Array:
    """Compute ⟨g_i, g_j⟩: [n, n]."""
    n, shared = self.num_examples, self.shared(data)
    square = 0. if shared is None else trees.sq_norm(shared)
    if self.kind == 'common':
      return jnp.broadcast_to(square, (n, n))
    if self.kind == 'products':
      total = sum(group.gram(data.batched) for group in self.groups)
      if shared is not None:
        along = sum(group.inner(data.batched, shared) for group in self.groups)
        total += along[:, None] + along[None, :] + square
      return total
    own = lambda rows: rows if shared is None else rows + shared[None]
    if n * self.size <= max(costs.room(), costs.WHOLE):
      rows = self._in_chunks(lambda rows: ((), rows), data)[1]
      return groups_lib.flat_gram(own(rows))

    def part(rows):
      rows = trees.widen(own(rows)).reshape(len(rows), -1)
      across = lambda more: ((), jnp.matmul(
        trees.widen(own(more)).reshape(len(more), -1), rows.T,
        precision=lax.Precision.HIGHEST))
      return (), self._in_chunks(across, data)[1].T

    return self._in_chunks(part, data)[1]

  def shared(self, data: Any) -> jax.Array | None:
    """Add up what is common to all examples; None where nothing is."""
    parts = [piece.add_up([data.common[x][None] for x in piece.operands],
                          data.common)
             for piece in self.pieces if piece.is_common]
    if not parts and self.kind == 'common':
      return jnp.zeros(self.shape, self.dtype)
    return sum(parts[1:], parts[0]) if parts else None

  def _rows(self, data):
    """Write the gradients out, without what is common: [n, *shape]."""
    if self.kind == 'fallback':
      (rows,) = data.again([self.value], data.examples)
      return keep_some(rows, data.mask)
    rows = 0
    for piece in self.pieces:
      if not piece.is_common:
        put = lambda *arrays, piece=piece: piece.add_up(
          [x[None] for x in arrays], data.common)
        rows += jax.vmap(put)(*(data.batched[x] for x in piece.operands))
    return rows

  def _in_chunks(self, part, data, *more):
    """Apply to the gradients written out, some at a time."""
    source = ({'examples': data.examples} if self.kind == 'fallback'
              else {x: data.batched[x] for x in self.batched})

    def chunk(arrays):
      own = dict(arrays)
      more, mask = own.pop('more'), own.pop('mask')
      examples = own.pop('examples', None)
      own = data._replace(batched=own, examples=examples, mask=mask)
      return part(self._rows(own), *more)

    return groups_lib.in_chunks(
      chunk, source | {'more': more, 'mask': data.mask}, self.width)


def keep_some(x: jax.Array, keep: jax.Array) -> jax.Array:
  """Replace the rows [n, ...] that are not kept by zeros."""
  if not jnp.issubdtype(x.dtype, jnp.floating):
    return x
  keep = keep.reshape(-1, *(1,) * (x.ndim - 1))
  return jnp.where(keep, x, jnp.zeros((), x.dtype))


def _weigh(x, weights):
  """Multiply rows by weights; zero leaves out, whatever is there."""
  weights = weights.reshape(-1, *(1,) * (x.ndim - 1))
  return jnp.where(
    weights != 0, trees.widen(x) * weights, 0).astype(x.dtype)


def _maker(cutter, value):
  """Name the primitive that makes a value."""
  program = cutter.program
  if value not in program.producer:
    return 'an argument'
  return program.equations[program.producer[value][0]].name
