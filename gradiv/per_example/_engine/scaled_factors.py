"""A product scaled along the axes of one of its factors.

A weight may be scaled channel by channel before its use, as W = V · s with one
s for each output. The gradient of V is the product that made the gradient of W
times s, and s goes into a factor:

  dV = (Σ_k u_k ⊗ v_k) · s  =  Σ_k u_k ⊗ (s · v_k)
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradiv.per_example._engine import labels as labels_of
from gradiv.per_example._engine.linear import LinearOp
from gradiv.per_example._engine.outer_product import OuterProduct
from gradiv.per_example._engine.values import Value


class Along(NamedTuple):
  """A product or quotient with an array that is common to the examples.

  Attributes:
    value: The array.
    axes: For each of its axes, which one of the result it lies along; None for
      an axis of one.
    shape: Shape of the result.
    divides: Whether it is divided by.
    otherwise: The equation as any linear one.
    rest: What of the equation is left once the array is in a factor, or None.
  """

  value: Value
  axes: tuple[int | None, ...]
  shape: tuple[int, ...]
  divides: bool
  otherwise: LinearOp
  rest: LinearOp | None = None

  @property
  def spreads(self) -> bool:
    """Whether the array is the same along some axes of the result."""
    return len(set(self.axes) - {None}) < len(self.shape)


class _Layout(NamedTuple):
  """How an array becomes a scale of one factor.

  Attributes:
    roles: 'z', 'za' or 'zb': the blocks, and maybe the side of one factor.
    sizes: Sizes of the parts of those that it has, as they lie in it.
    order: How they are to be transposed.
    spread: Its shape with an axis for each part.
    parts: Sizes of all parts.
    divides: Whether to divide.
  """

  roles: str
  sizes: tuple[int, ...]
  order: tuple[int, ...]
  spread: tuple[int, ...]
  parts: tuple[int, ...]
  divides: bool


def scaled(term: Any, along: Along) -> Any:
  """Put a scale into a factor of a term; None if it belongs to no single one.

  Args:
    term: The term, of the shape of the result.
    along: What it is multiplied or divided by.
  """
  product, dtype = term.product, along.value.aval.dtype
  if product is None or term.stacks or term.labels is None or any(
      op.name not in ('reshape', 'transpose') for op in term.ops) or (
      dtype != term.dtype or not jnp.issubdtype(dtype, jnp.floating)):
    return None
  layout = _layout(product, term.labels, along)
  if layout is None:
    return None
  count = len(product.operands)
  scaled_product = product._replace(
    operands=(*product.operands, along.value),
    scales=(*product.scales, (layout, along.value)),
    plain=product.plain or product,
    make_factors=functools.partial(
      _make_factors, product.make_factors, layout, product.sizes),
    add_up=product.add_up and functools.partial(
      _add_up, product.add_up, layout, product.labels))
  return dataclasses.replace(
    term, product=scaled_product, operands=(
      *term.operands[:count], along.value, *term.operands[count:]))


def is_along(product: OuterProduct, roles: str) -> bool:
  """Return whether a product is scaled along some roles alone."""
  return all(set(layout.roles) <= set(roles) for layout, _ in product.scales)


def along(
  product: OuterProduct, roles: str, values: dict[Any, Any]
) -> jax.Array:
  """Return by what a product is scaled along some roles, to be broadcast.

  Args:
    product: The product.
    roles: 'z', 'za' or 'zb'.
    values: The arrays that it is scaled with, by their values.
  """
  total = jnp.ones((1,) * len(roles))
  for layout, value in product.scales:
    scale = _in_blocks(layout, product.sizes[0], values[value])[:, 0]
    total = _apply(layout, total, scale if len(roles) == 2 else scale[:, 0])
  return total


def _layout(product, labels, along):
  by_axis = labels_of.of_axes(labels, along.shape)
  if by_axis is None:
    return None
  mine = [part for d in along.axes if d is not None for part in by_axis[d]]
  sides = {role for role, _, size in mine if size > 1} - {'z'}
  if len(sides) > 1 or product.is_sparse and 'a' in sides:
    return None
  roles = ''.join(('z', *sides))
  key = lambda part: (roles.index(part[0]), part[1])
  mine = [part for part in mine if part[0] in roles]
  every = sorted((part for part in labels_of.numbered(product.labels)
                  if part[0] in roles), key=key)
  return _Layout(
    roles, tuple(size for *_, size in mine),
    tuple(sorted(range(len(mine)), key=lambda i: key(mine[i]))),
    tuple(part[2] if part in mine else 1 for part in every),
    tuple(size for *_, size in every), along.divides)


def _make_factors(make_factors, layout, sizes, *operands):
  u, v = make_factors(*operands[:-1])
  scale = _in_blocks(layout, sizes[0], operands[-1])
  if 'a' in layout.roles:
    return _apply(layout, u, scale), v
  return u, _apply(layout, v, scale)


def _in_blocks(layout, num_blocks, scale):
  """Bring a scale into the order of a factor: [z, 1, a], [z, 1, b]; or ones."""
  return jnp.broadcast_to(_spread(layout, scale), layout.parts).reshape(
    num_blocks, 1, -1)


def _add_up(add_up, layout, labels, *operands):
  """Scale the sum over the examples, as all have the same scale."""
  total = add_up(*operands[:-1])
  every = labels_of.numbered(labels)
  mine = [part for part in every if part[0] in layout.roles]
  there = sorted(mine, key=lambda part: (layout.roles.index(part[0]), part[1]))
  # Examples that are left out have zeros.
  rows = operands[-1]
  first = jnp.argmax(jnp.any(rows.reshape(len(rows), -1) != 0, 1))
  scale = _spread(layout, rows[first]).transpose(
    [there.index(part) for part in mine])
  sizes = iter(scale.shape)
  scale = scale.reshape([next(sizes) if part in mine else 1 for part in every])
  by_part = total.reshape([size for *_, size in every])
  return _apply(layout, by_part, scale).reshape(total.shape)


def _spread(layout, scale):
  return scale.reshape(layout.sizes).transpose(layout.order).reshape(
    layout.spread)


def _apply(layout, x, scale):
  if not layout.divides:
    return x * scale
  # Examples that are left out have zeros for all values.
  return x / jnp.where((x == 0) & (scale == 0), 1, scale)
