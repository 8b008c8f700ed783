"""A gradient leaf as a sum of pieces: products, and the layout behind them.

A piece is what one cut leaves behind: how its product is made of operands, and
the linear equations between it and the leaf. Transposes, reshapes and zeros
around it keep norms and inner products, so those can be had from the factors;
any other linear equation needs the product written out.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradiv.per_example._engine import (
  factors as factors_lib,
  outer_product,
  program,
)

Data = dict[program.Atom, jax.Array]
Labels = tuple[tuple[str, int, int], ...]


class Op(NamedTuple):
  """A linear equation behind a product.

  Attributes:
    name: Of its primitive.
    key: What tells it from others.
    fn: The value, and `extra` -> the result.
    extra: Values that do not depend on the example.
    isometric: Whether inner products stay what they are.
    box: For zeros put around a value: where it then lies, (low, high) by axis.
    depth: How many axes, stacked by loops, stand in front.
  """

  name: str
  key: Any
  fn: Callable[..., jax.Array]
  extra: tuple[program.Atom, ...] = ()
  isometric: bool = True
  box: tuple[tuple[int, int], ...] | None = None
  depth: int = 0


@dataclasses.dataclass(frozen=True)
class Piece:
  """One summand of a leaf.

  Attributes:
    operands: What its product is made of, then the scalars that multiply it.
    view: How; None where the only operand is the summand itself.
    stacks: Loops around it, outermost first: ('sum' | 'keep', steps).
    ops: The equations from the product to the leaf.
    labels: What the axes are made of, up to the first box, in order: (group,
      which part of the factor, size); None where it is not known.
    factor: A constant that multiplies it.
    is_common: Whether it is the same for all examples.
    name: Of the primitive that makes the product.
    shape: Of the product, as the equation gives it.
    dtype: Of the product.
  """

  operands: tuple[program.Atom, ...]
  view: outer_product.View | None = None
  stacks: tuple[tuple[str, int], ...] = ()
  ops: tuple[Op, ...] = ()
  labels: Labels | None = None
  factor: float = 1.
  is_common: bool = False
  name: str = ''
  shape: tuple[int, ...] = ()
  dtype: Any = None

  @property
  def num_scales(self) -> int:
    """Count the scalars behind the operands."""
    return len(self.operands) - (len(self.view.operands) if self.view else 1)

  @property
  def sizes(self) -> tuple[int, int, int, int]:
    """Tell (z, k, a, b), with loops that are summed in k, the others in z."""
    z, k, a, b = self.view.sizes
    for kind, steps in self.stacks:
      z, k = (z, k * steps) if kind == 'sum' else (z * steps, k)
    return z, k, a, b

  @property
  def extra(self) -> int:
    """Count the numbers that its factors hold and its operands do not."""
    return self.view.extra * math.prod(steps for _, steps in self.stacks)

  @property
  def mantissa(self) -> int:
    """Count the bits that are left of a product in the leaf."""
    casts = [op.key for op in self.ops if op.name == 'convert_element_type']
    return min(jnp.finfo(dtype).nmant for dtype in (self.dtype, *casts))

  def factors(
    self, arrays: list[jax.Array]
  ) -> tuple[factors_lib.Factor, factors_lib.Factor]:
    """Make (u [n, z, k, a], v [n, z, k, b]) of operands [n, ...]."""
    make, num_stacks = self.view.factor, len(self.stacks)
    for _ in range(1 + num_stacks):
      make = jax.vmap(make)
    u, v = make(*self._operands(arrays))
    kinds = [kind for kind, _ in self.stacks]
    keeps, sums = ([1 + i for i, kind in enumerate(kinds) if kind == want]
                   for want in ('keep', 'sum'))
    blocks, positions = 1 + num_stacks, 2 + num_stacks
    z, k, _, _ = self.sizes

    def fold(x):
      rest = range(positions + 1, x.ndim)
      x = x.transpose(0, *keeps, blocks, *sums, positions, *rest)
      return x.reshape(len(x), z, k, *x.shape[len(x.shape) - len(rest):])

    u, v = (jax.tree.map(fold, x) for x in (u, v)) if num_stacks else (u, v)
    return u, v

  def add_up(self, arrays: list[jax.Array], common: Data) -> jax.Array:
    """Sum the products of all examples, in the leaf."""
    if self.view is None:
      return self._through(jnp.sum(self._operands(arrays)[0], 0), common)
    if self.view.add_up is not None and not self.stacks:
      return self._through(self.view.add_up(*self._operands(arrays)), common)
    return self.put(factors_lib.product_sum(
      *self.factors(arrays), self.view.precision), common)

  def put(self, block: jax.Array, common: Data) -> jax.Array:
    """Put a product [z, a, b] into the leaf."""
    keeps = [steps for kind, steps in self.stacks if kind == 'keep']
    labels = self.view.labels
    order = [i for g in 'zab' for i, (group, _) in enumerate(labels)
             if group == g]
    block = block.reshape(*keeps, *(labels[i][1] for i in order))
    back = [order.index(i) + len(keeps) for i in range(len(labels))]
    block = block.transpose(*range(len(keeps)), *back)
    return self._through(
      block.reshape(*keeps, *self.shape).astype(self.dtype), common)

  def _through(self, x, common):
    """Apply the equations behind."""
    for op in self.ops:
      fn = lambda x, op=op: op.fn(x, *(common[e] for e in op.extra))
      for _ in range(op.depth):
        fn = jax.vmap(fn)
      x = fn(x)
    return x

  def _operands(self, arrays):
    """Multiply by the scalars; what is left is what the view asks for."""
    num = len(arrays) - self.num_scales
    arrays, scales = list(arrays[:num]), arrays[num:]
    place = self.view.linear if self.view else 0
    x = arrays[place]
    for scale in scales:
      ones = (1,) * (x.ndim - scale.ndim)
      x = x * scale.reshape(*scale.shape, *ones).astype(x.dtype)
    arrays[place] = x * jnp.asarray(self.factor, x.dtype)
    return arrays

  def through(
    self, op: Op, relabel: Callable[[Labels], Labels | None] = lambda x: x
  ) -> 'Piece':
    """Put an equation behind it."""
    labels = self.labels
    if labels is not None and not any(o.box for o in self.ops):
      labels = relabel(labels)
    return dataclasses.replace(self, ops=(*self.ops, op), labels=labels)

  def lifted(
    self, index: int, branch: int | None, stack: tuple[str, int] | None
  ) -> 'Piece':
    """See a piece inside an equation from outside."""
    operands = tuple(program.Inner(index, branch, x) for x in self.operands)
    if stack is None:
      return dataclasses.replace(self, operands=operands)
    ops, labels = self.ops, self.labels
    if stack[0] == 'keep':
      ops = tuple(op._replace(depth=op.depth + 1) for op in ops)
      labels = labels and (('z', -len(self.stacks) - 1, stack[1]), *labels)
    return dataclasses.replace(self, operands=operands, ops=ops,
                               stacks=(stack, *self.stacks), labels=labels)

  @property
  def place(self) -> tuple[Any, bool]:
    """Tell where in the leaf the product lies, and whether turned around.

    Pieces that lie alike can be added up by their factors: with u along the
    earlier axes of the leaf and v along the later, or the other way around.
    """
    first = next((i for i, op in enumerate(self.ops) if op.box), len(self.ops))
    if self.labels is None:
      first, turned = 0, False
      where = self.view.labels, self.shape, self.stacks
    else:
      where, turned = _normalized(self.labels)
    return (where, *((op.name, op.key, op.depth)
                     for op in self.ops[first:])), turned


def label(view: outer_product.View) -> Labels:
  """Number the parts of each factor in the order in which they lie."""
  seen: dict[str, int] = {}
  labels = []
  for group, size in view.labels:
    labels.append((group, seen.get(group, 0), size))
    seen[group] = seen.get(group, 0) + 1
  return tuple(labels)


def transposed(
  labels: Labels, shape: tuple[int, ...], permutation: tuple[int, ...]
) -> Labels | None:
  """Follow a transpose; None where a part is spread over two axes."""
  axes, rest = [], list(labels)
  for size in shape:
    mine: list[tuple[str, int, int]] = []
    while rest and (math.prod(s for *_, s in mine) < size or rest[0][2] == 1):
      mine.append(rest.pop(0))
    if math.prod(s for *_, s in mine) != size:
      return None
    axes.append(mine)
  return tuple(part for d in permutation for part in axes[d])


def disjoint(one: Piece, other: Piece) -> bool:
  """Tell whether two pieces lie at places of the leaf that do not overlap."""
  for a, b in zip(reversed(one.ops), reversed(other.ops)):
    if (a.name, a.key, a.depth) != (b.name, b.key, b.depth):
      return (a.box is not None and b.box is not None and a.depth == b.depth
              and any(low >= top or lower >= high for (low, high), (lower, top)
                      in zip(a.box, b.box)))
  return False


def _normalized(labels):
  """Drop what makes no difference; put the factor that comes first at 'a'."""
  labels = [x for x in labels if x[2] > 1]
  turned = next((g for g, *_ in labels if g != 'z'), 'a') == 'b'
  if turned:
    swap = {'a': 'b', 'b': 'a', 'z': 'z'}
    labels = [(swap[g], *rest) for g, *rest in labels]
  ranks = {x: i for i, x in enumerate(sorted(labels))}
  merged: list[tuple] = []
  for x in labels:
    if merged and merged[-1][0] == x[0] and merged[-1][2] + 1 == ranks[x]:
      merged[-1] = (x[0], merged[-1][1], ranks[x], merged[-1][3] * x[2])
    else:
      merged.append((x[0], ranks[x], ranks[x], x[2]))
  starts = sorted((g, first) for g, first, _, _ in merged)
  return tuple((g, starts.index((g, first)), size)
               for g, first, _, size in merged), turned
