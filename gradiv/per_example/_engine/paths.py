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

from gradiv._common import compat
from gradiv.per_example._engine import control_flow, linear
from gradiv.per_example._engine.outer_product import OuterProduct
from gradiv.per_example._engine.terms import Term
from gradiv.per_example._engine.values import Value

# Up to this number, each path stays a term of its own, of which inner products
# can be computed without the gradient. More paths become one linear map.
MOST_PATHS = 4


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
    # By identity: the products are held, so that no other takes their place.
    self._starts: dict[int, tuple[OuterProduct, Value]] = {}

  def start(self, product: OuterProduct, made: Value) -> None:
    """Remember the value that a product is."""
    self._starts[id(product)] = product, made

  def joined(self, terms: list[Term], value: Value) -> list[Term]:
    """Join terms of one product, where there are more than `MOST_PATHS`.

    Args:
      terms: What the value is the sum of.
      value: The value.
    """
    if len(terms) <= MOST_PATHS:
      return terms
    by_product = collections.defaultdict(list)
    for term in terms:
      by_product[id(term.product or term), term.operands].append(term)
    return [term for group in by_product.values()
            for term in self._of_one_product(group, value)]

  def _of_one_product(self, terms, value):
    if len(terms) <= MOST_PATHS:
      return terms
    terms = _with_constants_added(terms)
    first = terms[0]
    product, made = self._starts.get(id(first.product), (None, None))
    scaled = product is None or len(first.operands) > len(product.operands)
    if len(terms) <= MOST_PATHS or scaled or first.stacks or all(
        op.is_isometric for term in terms for op in term.ops):
      return terms
    found = self._map(made, value)
    whole = dataclasses.replace(first, ops=(), labels=None, constant=1.)
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

    def run(x, *values):
      env = {start: x, **dict(zip(common, values))} | {
        y: compat.zeros_of(y.aval.shape, y.aval.dtype, compat.varying_axes(
          y.aval)) for y in apart}
      for step in steps:
        env.update(zip(step.outs, step.bind(*(env[y] for y in step.ins))))
      return env[end]

    return linear.LinearOp('paths', id(end), run, common, False)

  def _leads_on(self, step, end):
    """Return whether a path went through, and was not cut here."""
    return any(out is end or any(
      term.operands != (out,) and self._starts.get(
        id(term.product), (None, None))[1] is not out
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
