"""The way back from a gradient to the products that it is the sum of."""

from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np
from jax import lax

from gradiv.examples import pieces as pieces_lib
from gradiv.examples import programs
from gradiv.examples import rules
from gradiv.examples.pieces import Op, Piece

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
  'triangular_solve': 1}


class Cutter:
  """Finds the pieces of values of one program.

  Attributes:
    program: The program.
    varying: Which of its values depend on the example.
  """

  def __init__(
    self, program: programs.Program, sources: Iterable[programs.Value]
  ):
    self.program = program
    self.varying = program.reached(sources)
    self._inner: dict[tuple[int, int], Cutter] = {}

  def pieces(self, value: programs.Value) -> list[Piece]:
    """Write a value as a sum of pieces; of one, itself, where none is found."""
    return self._pieces(value) or [self._whole(value)]

  def _whole(self, value):
    return Piece((value,), is_common=value not in self.varying)

  def _pieces(self, value) -> list[Piece]:
    """As `pieces`; empty where there is no product, nor need to look in."""
    if rules.is_zero(self.program, value):
      return []
    if value not in self.varying or value not in self.program.producer:
      return [self._whole(value)]
    index, out = self.program.producer[value]
    equation = self.program.equations[index]
    name = equation.name
    if name in ('add_any', 'add', 'sub'):
      found = self._sum(equation)
    elif name == 'scan':
      found = self._scan(index, out)
    elif name == 'cond':
      found = self._cond(index, out)
    elif name == 'optimization_barrier':
      found = self._pieces(equation.ins[out])
    elif name in ('scatter-add', 'scatter_add'):
      found = self._product(equation, None) + self._pieces(equation.ins[0])
    elif name in ('slice', 'split'):
      found = self._cut_out(equation, out) or self._linear(equation)
    else:
      found = (self._product(equation, 2) or self._linear(equation)
               or self._product(equation, 1))
    if not any(piece.view for piece in found):
      return [self._whole(value)]
    return found

  def _product(self, equation, num_varying):
    """Cut here, if a rule applies and so many operands differ by example."""
    if equation.name not in rules.RULES:
      return []
    varies = [x in self.varying for x in equation.ins]
    if equation.name == 'dynamic_update_slice':
      if not any(varies[2:]):
        return []  # a place that is common: the zeros are but around it
    elif equation.name != 'reduce_sum' and num_varying not in (
        None, sum(varies)):
      return []
    view = rules.RULES[equation.name](self.program, equation)
    if view is None:
      return []
    return [Piece(view.operands, view, labels=pieces_lib.label(view),
                  name=equation.name, shape=equation.outs[0].aval.shape,
                  dtype=equation.outs[0].aval.dtype)]

  def _sum(self, equation):
    one, other = equation.ins
    if one.aval.shape != other.aval.shape:
      return []
    found = list(self._pieces(one))
    return found + [
      piece if equation.name != 'sub' else _scaled(piece, -1.)
      for piece in self._pieces(other)]

  def _linear(self, equation):
    """Follow the one operand that differs by example through an equation."""
    ins, name = equation.ins, equation.name
    varying = [i for i, x in enumerate(ins) if x in self.varying]
    if name == 'concatenate':
      return self._concatenated(equation)
    if name == 'mul' and len(varying) == 2:
      return self._scaled_by_example(equation)
    if len(varying) != 1:
      return []
    (place,) = varying
    value, out = ins[place], equation.outs[0]
    if not jnp.issubdtype(out.aval.dtype, jnp.floating):
      return []
    follow = self._pieces(value)
    if not any(piece.view for piece in follow):
      return []
    if name == 'neg':
      return [_scaled(piece, -1.) for piece in follow]
    scalar = self._scalar(equation, place)
    if scalar is not None:
      return [_scaled(piece, scalar) for piece in follow]
    op, relabel = self._op(equation, place)
    if op is None:
      return []
    return [piece.through(op, relabel) for piece in follow]

  def _op(self, equation, place):
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
    if name == 'broadcast_in_dim' and value.aval.size == out.aval.size:
      shape = out.aval.shape
      return Op('reshape', shape, lambda x: x.reshape(shape)), same
    if name == 'transpose':
      order = tuple(params['permutation'])
      return (Op(name, order, lambda x: x.transpose(order)),
              lambda labels: pieces_lib.transposed(
                labels, value.aval.shape, order))
    if name == 'rev':
      return Op(name, params['dimensions'], apply), lambda labels: None
    box = self._box(equation, place)
    if box is not None:
      return _boxed(out.aval.shape, box), same
    if name in _LINEAR and _LINEAR[name] in (None, place) and (
        name not in ('pad', 'dynamic_update_slice')
        or rules.is_zero(self.program, others[0])):
      return Op(name, id(equation), apply, tuple(others), False), same
    return None, same

  def _box(self, equation, place):
    """Where the value lies in a result that is zero around it."""
    name, ins = equation.name, equation.ins
    shape = ins[place].aval.shape
    if name == 'pad' and place == 0 and rules.is_zero(self.program, ins[1]):
      config = equation.params['padding_config']
      if all(low >= 0 and high >= 0 and not inside
             for low, high, inside in config):
        return tuple((int(low), int(low) + s)
                     for (low, _, _), s in zip(config, shape))
    if (name == 'dynamic_update_slice' and place == 1
        and rules.is_zero(self.program, ins[0])
        and all(x.constant is not None for x in ins[2:])):
      sizes = equation.outs[0].aval.shape
      starts = [int(np.clip(x.constant, 0, n - s))
                for x, n, s in zip(ins[2:], sizes, shape)]
      return tuple((start, start + s) for start, s in zip(starts, shape))
    return None

  def _cut_out(self, equation, out):
    """Follow a slice of products into their factors, where that can be."""
    params, (x,) = equation.params, equation.ins
    if equation.name == 'split':
      axis, sizes = params['axis'], params['sizes']
      low = sum(sizes[:out])
      cuts = [(axis, low, low + sizes[out])]
    else:
      cuts = [(d, low, high) for d, (low, high) in enumerate(zip(
        params['start_indices'], params['limit_indices']))
        if (low, high) != (0, x.aval.shape[d])]
      if set(params['strides'] or (1,)) != {1}:
        return []
    found = self._pieces(x)
    for axis, low, high in cuts:
      found = [_part(piece, axis, low, high) for piece in found]
      if None in found:
        return []
    return found

  def _concatenated(self, equation):
    axis, low, found = equation.params['dimension'], 0, []
    shape = equation.outs[0].aval.shape
    for x in equation.ins:
      size = x.aval.shape[axis]
      box = tuple((low, low + size) if d == axis else (0, s)
                  for d, s in enumerate(shape))
      found += [piece.through(_boxed(shape, box))
                for piece in self._pieces(x)]
      low += size
    return found

  def _scalar(self, equation, place):
    """The scalar, or the constant, that an equation multiplies by."""
    if equation.name not in ('mul', 'div') or len(equation.ins) != 2 or (
        equation.name == 'div' and place):
      return None
    value = self._behind(equation.ins[1 - place])
    if value.aval.size != 1 or value.aval.ndim:
      return None
    if value.constant is not None:
      constant = float(value.constant)
      return constant if equation.name == 'mul' else 1 / constant
    return value if equation.name == 'mul' else None

  def _scaled_by_example(self, equation):
    """Follow a product that a scalar of each example multiplies."""
    for place in (0, 1):
      scalar = self._behind(equation.ins[1 - place])
      if scalar.aval.ndim == 0:
        found = self._pieces(equation.ins[place])
        return [_scaled(piece, scalar) for piece in found]
    return []

  def _behind(self, value):
    """Look through broadcasts and casts of a scalar."""
    while value in self.program.producer:
      equation = self.program.equations[self.program.producer[value][0]]
      if equation.name not in ('broadcast_in_dim', 'convert_element_type'
                               ) or len(equation.ins) != 1:
        break
      if equation.ins[0].aval.size != 1 or not jnp.issubdtype(
          equation.ins[0].aval.dtype, jnp.floating):
        break
      value = equation.ins[0]
    return value

  def _scan(self, index, out):
    """Look into a loop: at what it stacks, or adds up in a carry."""
    equation, body = self.program.equations[index], self.program.body(index)
    num_consts, num_carry = self.program.carries(index)
    inside = self._body(index, 0)
    found = inside._pieces(body.outputs[out])
    rest = []
    if out < num_carry:
      carried = body.inputs[num_consts + out]
      adds = lambda piece: (piece.operands == (carried,) and not piece.view
                            and not piece.ops and piece.factor == 1)
      if sum(map(adds, found)) != 1:
        return []
      found = [piece for piece in found if not adds(piece)]
      rest = self._pieces(equation.ins[num_consts + out])
    if not all(_can_leave(piece) for piece in found):
      return []
    stack = ('sum' if out < num_carry else 'keep', equation.params['length'])
    return [piece.lifted(index, 0, stack) for piece in found] + rest

  def _cond(self, index, out):
    """Look into the branches; the pieces of those not taken are zero."""
    found = []
    for branch in range(len(self.program.equations[index].params['branches'])):
      inside = self._body(index, branch)
      mine = inside._pieces(self.program.body(index, branch).outputs[out])
      if not all(_can_leave(piece) for piece in mine):
        return []
      found += [piece.lifted(index, branch, None) for piece in mine]
    return found

  def _body(self, index, branch):
    """Cut inside an equation, with what varies there."""
    if (index, branch) not in self._inner:
      equation = self.program.equations[index]
      body = self.program.body(index, branch)
      if equation.name == 'cond':
        # Under a predicate that varies, all that comes out does.
        ins = [x in self.varying for x in equation.ins[1:]]
        sources = [v for v, varies in zip(body.inputs, ins) if varies]
      else:
        sources = self._varying_in_scan(equation, body, index)
      self._inner[index, branch] = Cutter(body, sources)
    return self._inner[index, branch]

  def _varying_in_scan(self, equation, body, index):
    num_consts, num_carry = self.program.carries(index)
    flags = [x in self.varying for x in equation.ins]
    while True:
      sources = [v for v, varies in zip(body.inputs, flags) if varies]
      reached = body.reached(sources)
      now = list(flags)
      for k in range(num_carry):
        now[num_consts + k] |= body.outputs[k] in reached
      if now == flags:
        return sources
      flags = now


def _can_leave(piece):
  """Tell whether a piece inside an equation can be finished outside."""
  return piece.view is not None and not any(op.extra for op in piece.ops)


def _part(piece, axis, low, high):
  """Cut a slice out of a product that has but been transposed."""
  if piece is None or piece.view is None or piece.stacks or any(
      op.name != 'transpose' for op in piece.ops):
    return None
  for op in reversed(piece.ops):
    axis = op.key[axis]
  view = rules.part_of(piece.view, piece.shape, axis, low, high)
  if view is None:
    return None
  shape = tuple(high - low if d == axis else s
                for d, s in enumerate(piece.shape))
  labels = pieces_lib.label(view)
  for op in piece.ops:
    labels = tuple(labels[d] for d in op.key)
  return _replace(piece, view=view, shape=shape, labels=labels)


def _scaled(piece, scalar):
  """Multiply a piece by a constant or by a scalar value."""
  if isinstance(scalar, float):
    return _replace(piece, factor=piece.factor * scalar)
  return _replace(piece, operands=(*piece.operands, scalar),
                  is_common=False)


def _replace(piece, **changes):
  return Piece(**(piece.__dict__ | changes))


def _boxed(shape, box):
  pads = [(low, size - high, 0) for (low, high), size in zip(box, shape)]
  return Op('box', (shape, box),
            lambda x: lax.pad(x, jnp.zeros((), x.dtype), pads), box=box)
