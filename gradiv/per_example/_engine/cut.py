"""The walk back from a gradient to the products that it is the sum of."""

from collections.abc import Iterable

import jax.numpy as jnp

from gradiv.per_example._engine import (
  labels,
  paths,
  program as programs,
  registry,
)
from gradiv.per_example._engine.terms import Term
from gradiv.per_example._engine.values import Value

# A sum of more terms is not written as one.
MOST_TERMS = 1024


class _Later(Exception):
  """Raised where a rule needs the terms of a value that are not known yet."""

  def __init__(self, value: Value):
    super().__init__()
    self.value = value


class Cutter:
  """Writes values of one program as sums of terms.

  Attributes:
    program: The program.
    varying: The values of the program that depend on the example.
  """

  def __init__(self, program: programs.Program, sources: Iterable[Value]):
    self.program = program
    self.varying = program.reached(sources)
    self._inside: dict[tuple[int, int | None], Cutter] = {}
    self._found: dict[Value, list[Term]] = {}
    self._paths = paths.Paths(program, self.varying, self._found)

  def terms(self, value: Value) -> list[Term]:
    """Write a value as a sum of terms; of itself alone if none are found."""
    return self.walk(value) or [self._whole(value)]

  def walk(self, value: Value) -> list[Term]:
    """Write a value as a sum of terms; [] if it is known to be zero.

    The value comes back whole, as one term without a product, if the equation
    that computes it leads to no product. A rule that needs another value first
    is asked again once that one is known: a loop, because programs may be
    thousands of equations deep.
    """
    waiting = [value]
    while waiting:
      now = waiting[-1]
      if now not in self._found:
        try:
          self._found[now] = self._terms_of(now)
        except _Later as later:
          waiting.append(later.value)
          continue
      waiting.pop()
    return self._found[value]

  def follow(self, value: Value) -> list[Term]:
    """Return the terms of a value, as `walk` does; for rules of primitives."""
    if value not in self._found:
      raise _Later(value)
    return self._found[value]

  def _terms_of(self, value):
    program = self.program
    if program.is_zero(value):
      return []
    if value not in self.varying or value not in program.producer:
      return [self._whole(value)]
    index, out = program.producer[value]
    equation = program.equations[index]
    find_terms = registry.find(equation.name).terms
    found = (self.product_or_linear(equation) if find_terms is None
             else find_terms(self, equation, out))
    found = self._paths.joined(found, value)
    if len(found) > MOST_TERMS or not any(term.product for term in found):
      return [self._whole(value)]
    return found

  def product_or_linear(self, equation: programs.Equation) -> list[Term]:
    """Cut at an equation, or follow the one operand that varies through it.

    Where two operands vary, as activations and errors do, this is the product
    to cut at. Where only one does, there may be a better product behind it; if
    not, cutting here still separates the constant factor.
    """
    num_varying = sum(x in self.varying for x in equation.ins)
    return (num_varying == 2 and self.product(equation)
            or self.linear(equation)
            or (num_varying == 1 and self.product(equation)) or [])

  def product(self, equation: programs.Equation) -> list[Term]:
    """Cut at an equation, if it can be seen as an outer product."""
    see = registry.find(equation.name).product
    product = None if see is None else see(self.program, equation)
    if product is None:
      return []
    (made,) = equation.outs
    return [Term(product.operands, product, source=made, name=equation.name,
                 labels=labels.numbered(product.labels),
                 shape=made.aval.shape, dtype=made.aval.dtype)]

  def linear(self, equation: programs.Equation) -> list[Term]:
    """Follow the one operand that varies through a linear equation."""
    varying = [i for i, x in enumerate(equation.ins) if x in self.varying]
    if len(varying) != 1 or not jnp.issubdtype(
        equation.outs[0].aval.dtype, jnp.inexact):
      return []
    (place,) = varying
    see = registry.find(equation.name).linear
    if see is None:
      return []
    found = self.follow(equation.ins[place])
    if not any(term.product for term in found):
      return []
    op = see(self.program, equation, place)
    if op is None:
      return []
    return [term.then(op) for term in found]

  def inside(self, equation: programs.Equation, branch: int | None) -> 'Cutter':
    """Return a cutter for the body of a scan, or one branch of a cond."""
    index, _ = self.program.producer[equation.outs[0]]
    if (index, branch) not in self._inside:
      body = self.program.body(index, branch)
      if equation.name == 'cond':
        # If the predicate varies, so does the result, whatever is inside.
        varies = [x in self.varying for x in equation.ins[1:]]
      else:
        varies = self._varying_in_scan(equation, body, index)
      self._inside[index, branch] = Cutter(
        body, [v for v, v_varies in zip(body.inputs, varies) if v_varies])
    return self._inside[index, branch]

  def _varying_in_scan(self, equation, body, index):
    """Find which inputs of a scan's body vary, in any of its steps.

    A carry that starts out common varies from the second step on if the body
    mixes something that varies into it.
    """
    num_consts, num_carry = self.program.carries(index)
    varies = [x in self.varying for x in equation.ins]
    while True:
      reached = body.reached(
        v for v, v_varies in zip(body.inputs, varies) if v_varies)
      now = list(varies)
      for k in range(num_carry):
        now[num_consts + k] |= body.outputs[k] in reached
      if now == varies:
        return varies
      varies = now

  def _whole(self, value):
    return Term((value,), is_common=value not in self.varying)
