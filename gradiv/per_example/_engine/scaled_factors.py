"""A product scaled along the axes of one of its factors.

A weight may be scaled channel by channel before its use, as W = V · s with one
s for each output. The gradient of V is the product that made the gradient of W
times s, and s goes into a factor:

  dV = (Σ_k u_k ⊗ v_k) · s  =  Σ_k u_k ⊗ (s · v_k)
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax.numpy as jnp

from gradiv.per_example._engine import labels as labels_of
from gradiv.per_example._engine.linear import LinearOp
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
  """

  value: Value
  axes: tuple[int | None, ...]
  shape: tuple[int, ...]
  divides: bool
  otherwise: LinearOp


class _Layout(NamedTuple):
  """How an array becomes a scale of one factor.

  Attributes:
    role: 'z', 'a' or 'b'.
    sizes: Sizes of the parts of the factor that it has, as they lie in it.
    order: How they are to be transposed.
    spread: Its shape with an axis for each part of the factor.
    parts: Sizes of all parts.
    divides: Whether to divide.
  """

  role: str
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
    make_factors=functools.partial(
      _make_factors, product.make_factors, layout, product.sizes),
    add_up=product.add_up and functools.partial(
      _add_up, product.add_up, layout, product.labels))
  return dataclasses.replace(
    term, product=scaled_product, operands=(
      *term.operands[:count], along.value, *term.operands[count:]))


def _layout(product, labels, along):
  by_axis = labels_of.of_axes(labels, along.shape)
  if by_axis is None:
    return None
  mine = [part for d in along.axes if d is not None for part in by_axis[d]]
  roles = {role for role, _, size in mine if size > 1}
  if len(roles) != 1 or product.is_sparse and 'a' in roles:
    return None
  (role,) = roles
  mine = [(part, size) for r, part, size in mine if r == role]
  parts = tuple(size for r, _, size in labels_of.numbered(product.labels)
                if r == role)
  has = dict(mine)
  return _Layout(
    role, tuple(size for _, size in mine),
    tuple(sorted(range(len(mine)), key=lambda i: mine[i][0])),
    tuple(has.get(i, 1) for i in range(len(parts))), parts, along.divides)


def _make_factors(make_factors, layout, sizes, *operands):
  u, v = make_factors(*operands[:-1])
  z, _, a, b = sizes
  shape = {'z': (z, 1, 1), 'a': (1, 1, a), 'b': (1, 1, b)}[layout.role]
  scale = jnp.broadcast_to(_spread(layout, operands[-1]), layout.parts)
  scale = scale.reshape(shape)
  if layout.role == 'a':
    return _apply(layout, u, scale), v
  return u, _apply(layout, v, scale)


def _add_up(add_up, layout, labels, *operands):
  """Scale the sum over the examples, as all have the same scale."""
  total = add_up(*operands[:-1])
  part, shape = iter(layout.spread), []
  for role, _ in labels:
    shape.append(next(part) if role == layout.role else 1)
  scale = _spread(layout, operands[-1][0]).reshape(shape)
  by_part = total.reshape([size for _, size in labels])
  return _apply(layout, by_part, scale).reshape(total.shape)


def _spread(layout, scale):
  return scale.reshape(layout.sizes).transpose(layout.order).reshape(
    layout.spread)


def _apply(layout, x, scale):
  if not layout.divides:
    return x * scale
  # Examples that are left out have zeros for all values.
  return x / jnp.where((x == 0) & (scale == 0), 1, scale)
