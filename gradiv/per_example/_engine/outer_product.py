"""An equation seen as Σ_k u_k ⊗ v_k, and what can be said of it."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradiv.per_example._engine import factors, program as program_lib

# Zero where what they are given is.
_PASSES = frozenset({
  'broadcast_in_dim', 'convert_element_type', 'reshape', 'neg', 'squeeze',
  'transpose', 'pvary', 'pcast', 'reduce_sum'})


class View(NamedTuple):
  """An equation's out as blocks z of Σ_k u_k ⊗ v_k, of shape [z, a, b].

  Attributes:
    operands: The values that it is made of.
    factor: Operands of one example -> (u [z, k, a], v [z, k, b]).
    labels: What the axes of the out are made of, in order: ('z' | 'a' | 'b',
      size). An axis may be made of several, the first the slowest.
    sizes: (z, k, a, b).
    linear: Which operand to multiply to scale the product.
    extra: How many elements the factors hold beyond the operands.
    is_sparse: Whether the rows of a factor are `OneHot`.
    precision: Of the product, as the user asked for it.
    add_up: Operands with the examples in front -> the sum of their products,
      in the shape of the out, where there is a better way than by factors.
  """

  operands: tuple[program_lib.Value, ...]
  factor: Callable[..., tuple[factors.Factor, factors.Factor]]
  labels: tuple[tuple[str, int], ...]
  sizes: tuple[int, int, int, int]
  linear: int
  extra: int = 0
  is_sparse: bool = False
  precision: Any = None
  add_up: Callable[..., Any] | None = None


def part_of(
  view: View, shape: tuple[int, ...], axis: int, low: int, high: int
) -> View | None:
  """See a slice of the out as a product, of slices of the factors.

  None where an axis of the out is not one of a factor.
  """
  labels = [g for g, _ in view.labels]
  if tuple(s for _, s in view.labels) != shape or labels[axis] == 'z' or (
      view.is_sparse):
    return None
  group = labels[axis]
  mine = [d for d in range(len(shape)) if labels[d] == group]
  sizes = [shape[d] for d in mine]
  place = mine.index(axis)
  z, k, a, b = view.sizes
  count = math.prod(sizes) // shape[axis] * (high - low)

  def factor(*operands):
    u, v = view.factor(*operands)
    whole = u if group == 'a' else v
    cut = lax.slice_in_dim(whole.reshape(z, k, *sizes), low, high, 1, place + 2)
    cut = cut.reshape(z, k, count)
    return (cut, v) if group == 'a' else (u, cut)

  new = tuple((g, high - low if d == axis else s)
              for d, (g, s) in enumerate(view.labels))
  sizes_now = (z, k, count, b) if group == 'a' else (z, k, a, count)
  return view._replace(factor=factor, labels=new, sizes=sizes_now, add_up=None)


def known(value: program_lib.Value) -> float | None:
  """Tell a number, where it is one and known while tracing."""
  constant = value.constant
  if constant is None or isinstance(constant, jax.core.Tracer) or (
      value.aval.shape or not jnp.issubdtype(value.aval.dtype, jnp.number)):
    return None
  return np.asarray(constant).item()


def is_zero(program: program_lib.Program, value: program_lib.Value) -> bool:
  """Tell whether a value is known to be zero everywhere."""
  if value not in program.zeros:
    program.zeros[value] = _is_zero(program, value)
  return program.zeros[value]


def _is_zero(program, value):
  if value.constant is not None:
    return known(value) == 0
  if value not in program.producer:
    return False
  equation = program.equations[program.producer[value][0]]
  if equation.name in ('mul', 'dot_general'):
    return any(is_zero(program, x) for x in equation.ins)
  return equation.name in _PASSES and is_zero(program, equation.ins[0])
