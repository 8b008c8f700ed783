"""A gradient as a sum of terms: products, and the linear equations behind them.

One term is left behind by one cut:

  operands ──► u, v ──► Σ_k u_k ⊗ v_k ──► times scalars ──► ops ──► gradient
           product                                      reshape, transpose …
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gradiv.per_example._engine import (
  factors as factors_of,
  labels as labels_of,
  outer_product,
  scaled_factors,
)
from gradiv.per_example._engine.labels import Labels
from gradiv.per_example._engine.linear import LinearOp
from gradiv.per_example._engine.values import Atom, Inner, Value

Data = dict[Atom, Any]


@dataclasses.dataclass(frozen=True)
class Term:
  """One summand of a gradient.

  Attributes:
    operands: What the product is made of, then the scalars that multiply it.
    product: How, an `OuterProduct`; None if the only operand is the summand
      itself.
    source: The value of the program that the product is, before anything
      scales it; None if it is in a loop, or part of a value.
    stacks: Loops around the product, outermost first: ('sum' | 'keep', steps).
      A loop either adds its products up or has one for each step.
    ops: The linear equations from the product to the gradient.
    labels: Where the product lies, up to the first box; None if not known.
    constant: A number that multiplies it.
    is_common: Whether it is the same for all examples.
    name: Name of the primitive that makes the product.
    shape: Shape of the product, without the axes of loops.
    dtype: Dtype of the product.
  """

  operands: tuple[Atom, ...]
  product: Any = None
  source: Value | None = None
  stacks: tuple[tuple[str, int], ...] = ()
  ops: tuple[LinearOp, ...] = ()
  labels: Labels | None = None
  constant: float = 1.
  is_common: bool = False
  name: str = ''
  shape: tuple[int, ...] = ()
  dtype: Any = None

  @property
  def scaled(self) -> int:
    """The position of the operand to multiply in order to scale the term."""
    return self.product.scaled if self.product else 0

  @property
  def scalars(self) -> tuple[Atom, ...]:
    """The operands that are not the product's."""
    return self.operands[len(self.product.operands):] if self.product else ()

  @property
  def sizes(self) -> tuple[int, int, int, int]:
    """The sizes (z, k, a, b), loops included.

    The steps of a loop that adds up are positions k like those in a sequence;
    the steps of a loop that stacks are blocks z.
    """
    z, k, a, b = self.product.sizes
    for kind, steps in self.stacks:
      z, k = (z, k * steps) if kind == 'sum' else (z * steps, k)
    return z, k, a, b

  @property
  def num_extra(self) -> int:
    """The number of elements of the factors beyond those of the operands."""
    return self.product.num_extra * math.prod(steps for _, steps in self.stacks)

  @property
  def mantissa(self) -> int:
    """The number of bits of the product that are left in the gradient."""
    casts = [op.key for op in self.ops if op.name == 'convert_element_type']
    return min(jnp.finfo(dtype).nmant for dtype in (self.dtype, *casts))

  @property
  def place(self) -> tuple[Any, bool]:
    """Where the product lies in the gradient, and whether it is turned around.

    Terms of equal places are added up by their factors: u along the earlier
    axes of the gradient and v along the later ones, or the other way around if
    turned. Up to the first box (zeros put around), the labels say where the
    product lies, whichever way reshapes and transposes led there; from then on
    terms must have gone through the same equations.
    """
    first = next((i for i, op in enumerate(self.ops) if op.box), len(self.ops))
    if self.labels is None:
      first, turned = 0, False
      where = self.product.labels, self.shape, self.stacks
    else:
      where, turned = labels_of.normalized(self.labels)
    return (where, *((op.name, op.key, op.depth)
                     for op in self.ops[first:])), turned

  def factors(
    self, arrays: Sequence[jax.Array]
  ) -> tuple[factors_of.Factor, factors_of.Factor]:
    """Make (u [n, z, k, a], v [n, z, k, b]) of operands [n, ...].

    Inside loops, the operands are stacked over their steps. The steps of loops
    that keep go to the blocks, those of loops that sum to the positions:

      [n, sum, keep, z, k, a]  ──►  [n, keep, z, sum, k, a]  ──►  [n, z', k', a]
    """
    make, num_stacks = self.product.make_factors, len(self.stacks)
    for _ in range(1 + num_stacks):
      make = jax.vmap(make)
    u, v = make(*self._scale(arrays))
    kinds = [kind for kind, _ in self.stacks]
    keeps, sums = ([1 + i for i, kind in enumerate(kinds) if kind == want]
                   for want in ('keep', 'sum'))
    blocks, positions = 1 + num_stacks, 2 + num_stacks
    z, k, _, _ = self.sizes

    def fold(x):
      rest = range(positions + 1, x.ndim)
      x = x.transpose(0, *keeps, blocks, *sums, positions, *rest)
      return x.reshape(len(x), z, k, *x.shape[len(x.shape) - len(rest):])

    return tuple(jax.tree.map(fold, x) for x in (u, v)) if num_stacks else (
      u, v)

  def add_up(self, arrays: Sequence[jax.Array], common: Data) -> jax.Array:
    """Sum the terms of all examples, in the shape of the gradient."""
    if self.product is None:
      return self._through_ops(jnp.sum(self._scale(arrays)[0], 0), common)
    if self.product.add_up is not None and not self.stacks:
      return self._through_ops(
        self.product.add_up(*self._scale(arrays)), common)
    return self.put(factors_of.product_sum(
      *self.factors(arrays), self.product.precision), common)

  def rows(self, arrays: Sequence[jax.Array], common: Data) -> jax.Array:
    """Write the terms of all examples out: [n, *shape of the gradient]."""
    if self.product is None:
      return jax.vmap(lambda x: self._through_ops(x, common))(
        self._scale(arrays)[0])
    return jax.vmap(lambda block: self.put(block, common))(factors_of.product(
      *self.factors(arrays), self.product.precision, self.product.turned))

  def put(self, block: jax.Array, common: Data) -> jax.Array:
    """Bring a product [z, a, b] into the shape of the gradient.

    With two loops that keep, blocks and factors of several axes each:

      [z, a, b]  ──►  [steps, steps, z1, z2, a1, a2, b1]   axes by their roles
                 ──►  [steps, steps, a1, z1, b1, z2, a2]   as labels order them
                 ──►  [steps, steps, *shape]  ──►  ops
    """
    keeps = [steps for kind, steps in self.stacks if kind == 'keep']
    labels = self.product.labels
    order = [i for want in 'zab' for i, (role, _) in enumerate(labels)
             if role == want]
    block = block.reshape(*keeps, *(labels[i][1] for i in order))
    back = [order.index(i) + len(keeps) for i in range(len(labels))]
    block = block.transpose(*range(len(keeps)), *back)
    return self._through_ops(
      block.reshape(*keeps, *self.shape).astype(self.dtype), common)

  def _through_ops(self, x, common):
    for op in self.ops:
      fn = lambda x, op=op: op.fn(x, *(common[e] for e in op.common))
      for _ in range(op.depth):
        fn = jax.vmap(fn)
      x = fn(x)
    return x

  def _scale(self, arrays):
    """Multiply by the scalars; return the operands of the product."""
    num = len(self.product.operands) if self.product else 1
    arrays, scalars = list(arrays[:num]), arrays[num:]
    x = arrays[self.scaled]
    for scalar in scalars:
      ones = (1,) * (x.ndim - scalar.ndim)
      x = x * scalar.reshape(*scalar.shape, *ones).astype(x.dtype)
    if self.constant != 1:
      x = x * jnp.asarray(self.constant, x.dtype)
    arrays[self.scaled] = x
    return arrays

  def then(
    self, op: LinearOp | complex | Value | scaled_factors.Along
  ) -> 'Term':
    """Put a linear equation, or a multiplication, behind the term."""
    if isinstance(op, scaled_factors.Along):
      scaled = scaled_factors.scaled(self, op)
      if scaled is None:
        return self.then(op.otherwise)
      return scaled if op.rest is None else scaled.then(op.rest)
    if isinstance(op, complex):
      op = LinearOp('times', op, lambda x, by=op: x * by, is_isometric=False)
    if isinstance(op, float):
      return dataclasses.replace(self, constant=self.constant * op)
    if isinstance(op, Value):
      return dataclasses.replace(
        self, operands=(*self.operands, op), is_common=False)
    if op.constant != 1:
      return self.then(op.constant).then(op._replace(constant=1.))
    labels = self.labels
    if labels is not None and not any(o.box for o in self.ops):
      labels = op.relabel(labels)
    return dataclasses.replace(self, ops=(*self.ops, op), labels=labels)

  def part(self, axis: int, low: int, high: int) -> 'Term | None':
    """Cut a slice out of a product that at most was transposed."""
    if self.product is None or self.stacks or any(
        op.name != 'transpose' for op in self.ops):
      return None
    for op in reversed(self.ops):
      axis = op.key[axis]
    product = outer_product.part_of(self.product, self.shape, axis, low, high)
    if product is None:
      return None
    shape = tuple(high - low if d == axis else s
                  for d, s in enumerate(self.shape))
    labels = labels_of.numbered(product.labels)
    for op in self.ops:
      labels = tuple(labels[d] for d in op.key)
    return dataclasses.replace(
      self, product=product, source=None, shape=shape, labels=labels)

  def lifted(
    self, index: int, branch: int | None, stack: tuple[str, int] | None
  ) -> 'Term':
    """See a term inside an equation from outside.

    Its operands become `Inner` values. In a loop that keeps, each operand and
    the gradient gain an axis of steps in front: the ops behind work on the
    axes after it, and it is the slowest label. Stacked axes are numbered
    downward, so that they come before the blocks of the product itself.

      body:      x, δ        ──►  dW [a, b]           for each of the steps
      outside:   Inner(x), Inner(δ) [steps, ...]  ──►  dW [steps, a, b]
    """
    operands = tuple(Inner(index, branch, x) for x in self.operands)
    if stack is None:
      return dataclasses.replace(self, operands=operands, source=None)
    ops, labels = self.ops, self.labels
    if stack[0] == 'keep':
      ops = tuple(op._replace(depth=op.depth + 1) for op in ops)
      labels = labels and (('z', -len(self.stacks) - 1, stack[1]), *labels)
    return dataclasses.replace(
      self, operands=operands, source=None, ops=ops,
      stacks=(stack, *self.stacks), labels=labels)


def disjoint(one: Term, other: Term) -> bool:
  """Return whether two terms lie at places of a gradient that do not overlap.

  From the gradient back, they go through the same equations up to one that
  puts them into boxes without a common element.
  """
  for a, b in zip(reversed(one.ops), reversed(other.ops)):
    if (a.name, a.key, a.depth) != (b.name, b.key, b.depth):
      return (a.box is not None and b.box is not None and a.depth == b.depth
              and any(low >= top or lower >= high for (low, high), (lower, top)
                      in zip(a.box, b.box)))
  return False
