"""The way back from a gradient to the products that it is the sum of."""

import dataclasses
from collections.abc import Iterable

import jax.numpy as jnp

from gradiv.per_example._engine import (
  linear,
  outer_product,
  program as program_lib,
  terms as pieces_lib,
)
from gradiv.per_example._engine.primitives import rules
from gradiv.per_example._engine.terms import Piece


class Cutter:
  """Finds the pieces of values of one program.

  Attributes:
    program: The program.
    varying: Which of its values depend on the example.
  """

  def __init__(
    self, program: program_lib.Program, sources: Iterable[program_lib.Value]
  ):
    self.program = program
    self.varying = program.reached(sources)
    self._inner: dict[tuple[int, int | None], Cutter] = {}

  def pieces(self, value: program_lib.Value) -> list[Piece]:
    """Write a value as a sum of pieces; of one, itself, where none is found."""
    return self._pieces(value) or [self._whole(value)]

  def _whole(self, value):
    return Piece((value,), is_common=value not in self.varying)

  def _pieces(self, value) -> list[Piece]:
    """As `pieces`; empty where there is no product, nor need to look in."""
    if outer_product.is_zero(self.program, value):
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
      found = self._linear(equation) or self._product(equation, None)
      found = found and found + self._pieces(equation.ins[0])
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
    scalar = linear.scalar(self.program, equation, place)
    if scalar is not None:
      return [_scaled(piece, scalar) for piece in follow]
    op, relabel = linear.op(self.program, equation, place)
    if op is None:
      return []
    return [piece.through(op, relabel) for piece in follow]

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
      found = [linear.part(piece, axis, low, high) for piece in found]
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
      found += [piece.through(linear.boxed(shape, box))
                for piece in self._pieces(x)]
      low += size
    return found

  def _scaled_by_example(self, equation):
    """Follow a product that a scalar of each example multiplies."""
    for place in (0, 1):
      scalar = linear.behind(self.program, equation.ins[1 - place])
      if scalar.aval.ndim == 0:
        found = self._pieces(equation.ins[place])
        return [_scaled(piece, scalar) for piece in found]
    return []

  def _scan(self, index, out):
    """Look into a loop: at what it stacks, or adds up in a carry."""
    equation, body = self.program.equations[index], self.program.body(index)
    num_consts, num_carry = self.program.carries(index)
    inside = self._body(index, None)
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
    return [piece.lifted(index, None, stack) for piece in found] + rest

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


def _scaled(piece, scalar):
  """Multiply a piece by a constant or by a scalar value."""
  if isinstance(scalar, float):
    return dataclasses.replace(piece, factor=piece.factor * scalar)
  return dataclasses.replace(
    piece, operands=(*piece.operands, scalar), is_common=False)
