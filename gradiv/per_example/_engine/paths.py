"""Several paths from one product to one value, seen as a single linear map.

A weight that is made orthogonal before its use, W = p(V Vᵀ) V, receives its
gradient from one product G along many paths: each factor of each power is one,
and ten times as many for each further step. The paths share their equations,
and their sum is linear in G:

         ┌─► · ─┬─► · ─┐
  G ─────┤      ├─►    ├─► dV        dV = L(G), running each equation once
         └─► · ─┴─► · ─┘
"""

import collections
import dataclasses
from typing import Any

import jax

from gradiv._common import compat
from gradiv.per_example._engine import (
  contracted as contracted_of,
  control_flow,
  linear,
)
from gradiv.per_example._engine.terms import Term
from gradiv.per_example._engine.values import Value


class Paths:
  """Joins the terms of one program that come from the same product.

  Args:
    program: The program.
    varying: Its values that depend on the example.
    found: The terms of its values, as far as they are known.
  """

  def __init__(
    self, program: Any, varying: set[Value], found: dict[Value, list[Term]]
  ):
    self._program, self._varying, self._found = program, varying, found

  def joined(self, terms: list[Term], value: Value) -> list[Term]:
    """Join the terms of each product, where there is no use for them apart.

    Args:
      terms: What the value is the sum of.
      value: The value.
    """
    if len(terms) < 2:
      return terms
    by_source = collections.defaultdict(list)
    for term in terms:
      by_source[term.source].append(term)
    return [term for source, group in by_source.items()
            for term in self._of_one_product(group, source, value)]

  def _of_one_product(self, terms, source, value):
    if source is None or len(terms) < 2:
      return terms
    terms = _with_constants_added(terms)
    readable = all(op.is_isometric for term in terms for op in term.ops)
    if len(terms) < 2 or readable or any(term.scalars for term in terms) or (
        contracted_of.find(terms)):
      return terms
    found = self._map(source, value)
    (whole,) = self._found[source]
    return terms if found is None else [whole.then(found)]

  def _map(self, start, end):
    """Describe the linear map from one value of the program to another.

    None if a loop lies between, which may be linear in one carry of several.
    """
    program, moving, steps = self._program, {start}, []
    _, used = program.needed([end])
    for i in sorted(used):
      step = program.equations[i]
      if any(x in moving for x in step.ins) and self._leads_on(step, end):
        moving.update(step.outs)
        steps.append(step)
    if any(step.name in control_flow.RUN_IN_PART for step in steps):
      return None
    others = dict.fromkeys(
      x for step in steps for x in step.ins if x not in moving)
    common = tuple(x for x in others if x not in self._varying)
    # What varies beside is a summand of its own, with terms of its own.
    apart = [x for x in others if x in self._varying]

    def whole(x, *values):
      env = {start: x, **dict(zip(common, values))} | {
        y: compat.zeros_of(y.aval.shape, y.aval.dtype, compat.varying_axes(
          y.aval)) for y in apart}
      for step in steps:
        env.update(zip(step.outs, step.bind(*(env[y] for y in step.ins))))
      return env[end]

    def run(x, *values):
      # The tangent, without the summands that are common to the examples.
      zeros = compat.zeros_of(start.aval.shape, x.dtype, compat.varying_axes(
        start.aval))
      return jax.jvp(lambda x: whole(x, *values), (zeros,), (x,))[1]

    return linear.LinearOp('paths', id(end), run, common, False)

  def _leads_on(self, step, end):
    """Return whether a path went through, and was not cut here."""
    return any(out is end or any(
      term.operands != (out,) and term.source is not out
      for term in self._found.get(out, ())) for out in step.outs)


def _with_constants_added(terms):
  """Join terms of one product at one place: 2 P + 3 P = 5 P."""
  at = {}
  for term in terms:
    place = term.place if all(op.is_isometric for op in term.ops) else tuple(
      (op.name, op.key, op.depth) for op in term.ops)
    before = at.get(place)
    at[place] = term if before is None else dataclasses.replace(
      term, constant=before.constant + term.constant)
  return list(at.values())
