"""Pieces that lie alike in a leaf, finished together by their factors."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gradiv._common import compat, trees
from gradiv.per_example._engine import (
  costs,
  factors as factors_lib,
  program,
  terms as pieces_lib,
)

Data = pieces_lib.Data
Pair = tuple[factors_lib.Factor, factors_lib.Factor]


class Group:
  """Products that lie at one place of a leaf: P_i = Σ_k u_k ⊗ v_k.

  Attributes:
    pieces: The products.
    num_examples: n.
    way: How to get the squared norms, and with them the sum.
    precision: Of the products, the highest where they differ.
  """

  def __init__(self, pieces: Sequence[pieces_lib.Piece], num_examples: int):
    # The most precise first: by the equations behind it, sums are placed.
    self.pieces = sorted(pieces, key=lambda piece: -piece.mantissa)
    self.num_examples = num_examples
    asked = {piece.view.precision for piece in pieces}
    self.precision = (asked.pop() if len(asked) == 1
                      else lax.Precision.HIGHEST)
    z, _, a, b = self.pieces[0].sizes
    if self.pieces[0].place[1]:
      a, b = b, a
    k = sum(piece.sizes[1] for piece in self.pieces)
    self.sizes = z, k, a, b
    self.extra = sum(piece.extra for piece in self.pieces)
    self.way = costs.best(costs.ways(num_examples, self.sizes, self.extra))

  @property
  def operands(self) -> list[program.Atom]:
    """List the values that the products are made of."""
    return [x for piece in self.pieces for x in piece.operands]

  def sums(
    self, data: Data, scale: jax.typing.ArrayLike = 1.
  ) -> tuple[jax.Array, jax.Array]:
    """Compute Σ_i P_i times `scale`, in the leaf, and ‖P_i‖²: [n]."""
    block, squares = self.blocks(data, scale)
    return self.place(block), squares

  def blocks(
    self, data: Data, scale: jax.typing.ArrayLike = 1.
  ) -> tuple[jax.Array, jax.Array]:
    """Do as `sums`, with Σ_i P_i as [z, a, b]."""
    data, (z, _, a, b) = {x: data[x] for x in self.operands}, self.sizes
    if self.way.name == 'direct':
      total, squares = in_chunks(
        self._write_out, data, z * a * b + self.extra)
    elif self.extra:
      # In a loop: else XLA spreads patches out when they could first be had,
      # in the forward pass, and holds those of all layers.
      total, squares = in_chunks(
        lambda data: (self._sum_of(self.pairs(data)), self._squares(data)),
        data, self.extra)
    else:
      total, squares = None, self._squares(data)
    if total is None:
      pairs = self.pairs(data)
      if all(factors_lib.dtype_of(*pair).itemsize >= 4 for pair in pairs):
        # The factor is scaled and not the sum, which is so written but once.
        # In bfloat16 1/n would be off by up to 0.4 %, for all examples alike.
        pairs, scale = [_scaled(pair, scale) for pair in pairs], 1.
      total = self._sum_of(pairs)
    return total * scale, squares

  def _squares(self, data):
    """Read norms off inner products of the factors."""
    pairs = self.pairs(data)
    if self.way.name == 'outer':
      (u, v), = pairs
      return jnp.sum(factors_lib.sq_norms(u) * factors_lib.sq_norms(v), -1)
    # A sum of signed numbers; of what cancels, no more is left than rounding.
    return jnp.maximum(_over_pairs(pairs), 0)

  def _sum_of(self, pairs):
    return sum(factors_lib.product_sum(u, v, self.precision) for u, v in pairs)

  def _write_out(self, data):
    """Write the products out; their sum is the contraction of a plain step."""
    block = sum(factors_lib.product(u, v, self.precision)
                for u, v in self.pairs(data))
    squares = jnp.sum(jnp.square(block), (1, 2, 3))
    if any(piece.view.is_sparse for piece in self.pieces):
      return None, squares  # Rows by the dozen: summed more cheaply apart.
    return add_up(block), squares

  def in_loop(self) -> program.Inner | None:
    """Ask for `blocks` inside the loop that stacks the products, if one does.

    The factors of one step are then dropped before the next, as a scan over
    layers that are rematerialised needs it.
    """
    piece = self.pieces[0]
    if len(self.pieces) > 1 or [kind for kind, _ in piece.stacks[:1]] != [
        'keep'] or not all(isinstance(x, program.Inner) and x.branch is None
                           for x in piece.operands):
      return None
    inside = dataclasses.replace(
      piece, operands=tuple(x.atom for x in piece.operands),
      stacks=piece.stacks[1:], ops=())
    group, n = Group([inside], self.num_examples), self.num_examples

    @jax.custom_batching.custom_vmap
    def finish(*operands):
      block, squares = group.blocks(
        {atom: x[None] for atom, x in zip(inside.operands, operands)})
      return block, squares[0]

    @finish.def_vmap
    def finish_all(axis_size, is_batched, *operands):
      rows = [x if batched else jnp.broadcast_to(x[None], (n, *x.shape))
              for x, batched in zip(operands, is_batched)]
      return group.blocks(dict(zip(inside.operands, rows))), (False, True)

    index = piece.operands[0].equation
    return program.Inner(index, None, program.Made(finish, inside.operands))

  def from_loop(
    self, blocks: jax.Array, squares: jax.Array, scale: jax.typing.ArrayLike
  ) -> tuple[jax.Array, jax.Array]:
    """Make `sums` of what the loop gave: [steps, z, a, b] and [n, steps]."""
    block = blocks.reshape(-1, *blocks.shape[2:])
    return self.place(block * scale), jnp.sum(squares, 1)

  def inner(self, data: Data, common: jax.Array) -> jax.Array:
    """Compute ⟨P_i, c⟩ with a tree that all examples share: [n]."""
    z, _, a, b = self.sizes
    common = trees.widen(common)
    zeros = compat.zeros_of(
      (z, a, b), common.dtype, compat.varying_axes(common))
    place = lambda block: self.place(block).astype(common.dtype)
    (block,) = jax.linear_transpose(place, zeros)(common)
    return sum(factors_lib.inner_common(u, v, block)
               for u, v in self.pairs(data))

  def gram(self, data: Data) -> jax.Array:
    """Compute ⟨P_i, P_j⟩: [n, n]."""
    n, (z, k, a, b), pairs = self.num_examples, self.sizes, self.pairs(data)
    dense = not any(piece.view.is_sparse for piece in self.pieces)
    by_factors = 2 * n * n * z * k * k * (a + b + 64)
    written = 2 * n * n * z * a * b + 64 * n * z * a * b
    if not dense or by_factors < written or k == 1:
      return _gram_by_rows(pairs, n, z * k * k)
    width = costs.chunk(b, n * z * a)

    def part(start):
      block = sum(
        factors_lib.product(u, lax.dynamic_slice_in_dim(v, start, width, -1),
                            self.precision)
        for u, v in pairs)
      return _outer(block.reshape(n, -1))

    starts = jnp.arange(width, b, width)
    return lax.scan(lambda total, start: (total + part(start), None),
                    part(0), starts)[0]

  def pairs(self, data: Data) -> list[Pair]:
    """Make the factors, those of one kind joined along their positions."""
    by_kind: dict[tuple, list[Pair]] = {}
    for piece in self.pieces:
      pair = piece.factors([data[x] for x in piece.operands])
      if piece.place[1]:
        pair = pair[::-1]
      kind = tuple(isinstance(x, factors_lib.OneHot) for x in pair)
      by_kind.setdefault(kind, []).append(pair)
    join = lambda *xs: jnp.concatenate(
      [x.astype(jnp.result_type(*xs)) for x in xs], 2)
    return [jax.tree.map(join, *pairs) if len(pairs) > 1 else pairs[0]
            for pairs in by_kind.values()]

  def place(self, block: jax.Array) -> jax.Array:
    """Put [z, a, b] into the leaf."""
    piece = self.pieces[0]
    return piece.put(
      jnp.swapaxes(block, 1, 2) if piece.place[1] else block, {})


def add_up(rows: jax.Array) -> jax.Array:
  """Sum over the examples, in at least float32."""
  if len(rows) == 1:
    return trees.widen(rows[0])
  # As a product: XLA's CPU is slow at sums over the outermost axis.
  return jnp.einsum('n,n...->...', jnp.ones(len(rows), rows.dtype), rows,
                    precision=lax.Precision.HIGHEST,
                    preferred_element_type=trees.wide_dtype(rows.dtype))


def in_chunks(
  part: Callable[[Any], tuple[Any, jax.Array]], data: Any, numbers: int
) -> tuple[Any, jax.Array]:
  """Add the first result up over chunks of examples, and line up the second.

  Args:
    part: Data of some examples -> (what is added up, [examples, ...]).
    data: Arrays with the examples in front.
    numbers: That are written out for each example.
  """
  leaves, treedef = jax.tree.flatten(list(data.values()))
  names = list(data)
  n = len(leaves[0])
  size = costs.chunk(n, numbers)
  rebuild = lambda leaves: part(dict(zip(names, treedef.unflatten(leaves))))
  if size == n:
    return rebuild(leaves)
  # Axes of one are left out, as where a batch goes through a layer, so that XLA
  # need not hold an array in both shapes.
  slim = [x.reshape(n, *(s for s in x.shape[1:] if s != 1)) for x in leaves]
  cut = lambda i: [
    lax.dynamic_slice_in_dim(x, i * size, size).reshape(size, *full.shape[1:])
    for x, full in zip(slim, leaves)]

  def step(total, i):
    more, lined_up = rebuild(cut(i))
    return jax.tree.map(jnp.add, total, more), lined_up

  # From the first chunk on, not from zeros: XLA would write those of all leaves
  # before the forward pass.
  total, first = rebuild(cut(0))
  total, rest = lax.scan(step, total, jnp.arange(1, n // size))
  rest = rest.reshape(n - size, *rest.shape[2:])
  return total, jnp.concatenate([first, rest])


def _scaled(pair, scale):
  u, v = pair
  if isinstance(v, factors_lib.OneHot):
    return _scaled((v, u), scale)[::-1]
  return u, (v * scale).astype(v.dtype)


def _over_pairs(pairs):
  """Σ_st Σ_kl ⟨u_k, u_l⟩⟨v_k, v_l⟩: sums of products, squared."""
  total = 0
  for s, (u, v) in enumerate(pairs):
    for t, (x, y) in enumerate(pairs[:s + 1]):
      both = factors_lib.inner(u, x) * factors_lib.inner(v, y)
      total += (1 if s == t else 2) * jnp.sum(both, (-1, -2, -3))
  return total


def _gram_by_rows(pairs, n, numbers):
  """Compute some rows of [n, n] at a time from inner products of factors."""
  def part(rows):
    total = 0
    for u, v in rows['pairs']:
      for x, y in pairs:
        both = (factors_lib.inner_across(u, x)
                * factors_lib.inner_across(v, y))
        total += jnp.sum(both, (-1, -2, -3))
    return (), total

  return in_chunks(part, {'pairs': pairs}, n * numbers)[1]


def _outer(rows):
  return jnp.matmul(rows, rows.T, precision=lax.Precision.HIGHEST)


def flat_gram(rows: jax.Array) -> jax.Array:
  """Compute the Gram matrix of gradients that are written out: [n, ...]."""
  return _outer(trees.widen(rows).reshape(len(rows), -1))
