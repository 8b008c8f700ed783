"""What linear equations behind a product do to it."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import lax

from gradiv.per_example._engine import (
  outer_product,
  program as program_lib,
  terms as pieces_lib,
)
from gradiv.per_example._engine.terms import Op, Piece

# They move elements about and change none; a cast but rounds.
_LAYOUT = frozenset({
  'reshape', 'squeeze', 'expand_dims', 'convert_element_type', 'copy',
  'copy_p', 'reduce_precision', 'pvary', 'pcast', 'sharding_constraint'})
# Linear in the operand at this place, the others being common to the examples;
# None: in any. What else is added or put around must be zero.
_LINEAR = {
  'mul': None, 'div': 0, 'dot_general': None, 'conv_general_dilated': None,
  'reduce_sum': 0, 'slice': 0, 'pad': 0, 'dynamic_slice': 0, 'gather': 0,
  'cumsum': 0, 'broadcast_in_dim': 0, 'dynamic_update_slice': 1,
  'triangular_solve': 1, 'scatter-add': 2, 'scatter_add': 2, 'select_n': None}
_ADDED_TO = ('pad', 'dynamic_update_slice', 'scatter-add', 'scatter_add')


def op(
  program: program_lib.Program, equation: program_lib.Equation, place: int
) -> tuple[Op | None, Callable]:
  """Describe an equation as an `Op`, and what it does to labels."""
  name, params = equation.name, equation.params
  value, out = equation.ins[place], equation.outs[0]
  others = [x for i, x in enumerate(equation.ins) if i != place]
  same = lambda labels: labels

  def apply(x, *extra):
    args = list(extra)
    args.insert(place, x)
    return equation.bind(*args)[0]

  if name in _LAYOUT:
    if name == 'convert_element_type':
      return Op(name, str(out.aval.dtype),
                lambda x: x.astype(out.aval.dtype)), same
    if name in ('reshape', 'squeeze', 'expand_dims'):
      shape = out.aval.shape
      return Op('reshape', shape, lambda x: x.reshape(shape)), same
    return Op(name, None, apply), same
  if (name in ('broadcast_in_dim', 'reduce_sum')
      and value.aval.size == out.aval.size):
    shape = out.aval.shape
    return Op('reshape', shape, lambda x: x.reshape(shape)), same
  if name == 'transpose':
    order = tuple(params['permutation'])
    return (Op(name, order, lambda x: x.transpose(order)),
            lambda labels: pieces_lib.transposed(
              labels, value.aval.shape, order))
  if name == 'rev':
    return Op(name, params['dimensions'], apply), lambda labels: None
  box = _box(program, equation, place)
  if box is not None:
    return boxed(out.aval.shape, box), same
  if name in _LINEAR and _LINEAR[name] in (None, place) and (
      _is_linear(program, equation, place)):
    return Op(name, id(equation), apply, tuple(others), False), same
  return None, same


def _is_linear(program, equation, place):
  """Tell whether what is put around, or instead of, a value is zero."""
  name, ins = equation.name, equation.ins
  if name in _ADDED_TO:
    return outer_product.is_zero(program, ins[1 if name == 'pad' else 0])
  if name == 'select_n':
    return place > 0 and all(
      outer_product.is_zero(program, x) for i, x in enumerate(ins)
      if i not in (0, place))
  return True


def _box(program, equation, place):
  """Where the value lies in a result that is zero around it."""
  name, ins = equation.name, equation.ins
  shape = ins[place].aval.shape
  if name == 'pad' and place == 0 and outer_product.is_zero(program, ins[1]):
    config = equation.params['padding_config']
    if all(low >= 0 and high >= 0 and not inside
           for low, high, inside in config):
      return tuple((int(low), int(low) + s)
                   for (low, _, _), s in zip(config, shape))
  if (name == 'dynamic_update_slice' and place == 1
      and outer_product.is_zero(program, ins[0])
      and all(outer_product.known(x) is not None for x in ins[2:])):
    sizes = equation.outs[0].aval.shape
    starts = [int(np.clip(outer_product.known(x), 0, n - s))
              for x, n, s in zip(ins[2:], sizes, shape)]
    return tuple((start, start + s) for start, s in zip(starts, shape))
  return None


def scalar(
  program: program_lib.Program, equation: program_lib.Equation, place: int
) -> float | program_lib.Value | None:
  """Find the scalar, or the constant, that an equation multiplies by."""
  if equation.name not in ('mul', 'div') or len(equation.ins) != 2 or (
      equation.name == 'div' and place):
    return None
  value = behind(program, equation.ins[1 - place])
  if value.aval.shape:
    return None
  number = outer_product.known(value)
  if equation.name == 'mul':
    return value if number is None else float(number)
  return 1 / number if number else None


def behind(
  program: program_lib.Program, value: program_lib.Value
) -> program_lib.Value:
  """Look through broadcasts and casts of a scalar."""
  while value in program.producer:
    equation = program.equations[program.producer[value][0]]
    if equation.name not in ('broadcast_in_dim', 'convert_element_type'
                             ) or len(equation.ins) != 1:
      break
    if equation.ins[0].aval.size != 1 or not jnp.issubdtype(
        equation.ins[0].aval.dtype, jnp.floating):
      break
    value = equation.ins[0]
  return value


def part(piece: Piece | None, axis: int, low: int, high: int) -> Piece | None:
  """Cut a slice out of a product that has but been transposed."""
  if piece is None or piece.view is None or piece.stacks or any(
      op.name != 'transpose' for op in piece.ops):
    return None
  for op in reversed(piece.ops):
    axis = op.key[axis]
  view = outer_product.part_of(piece.view, piece.shape, axis, low, high)
  if view is None:
    return None
  shape = tuple(high - low if d == axis else s
                for d, s in enumerate(piece.shape))
  labels = pieces_lib.label(view)
  for op in piece.ops:
    labels = tuple(labels[d] for d in op.key)
  return dataclasses.replace(piece, view=view, shape=shape, labels=labels)


def boxed(
  shape: tuple[int, ...], box: tuple[tuple[int, int], ...]
) -> Op:
  """Put zeros around a value, which then lies in a box."""
  pads = [(low, size - high, 0) for (low, high), size in zip(box, shape)]
  return Op('box', (shape, box),
            lambda x: lax.pad(x, jnp.zeros((), x.dtype), pads), box=box)
