"""A traced function as a flat list of equations that can be run in part.

`jax.make_jaxpr` returns nested calls. They are inlined here, so that walking
back from an output meets every equation. The bodies of loops and branches stay
where they are, but each value in them can be requested from outside (`Inner`):
that is how the factors of a product are read before a loop adds it up.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core

from gradiv._common import compat
from gradiv.per_example._engine import control_flow, registry
from gradiv.per_example._engine.values import (
  Atom,
  Computed,
  Inner,
  Value,
  arguments,
)

_CALLS = frozenset({
  'jit', 'pjit', 'closed_call', 'core_call', 'remat', 'remat2', 'checkpoint'})


class Equation(NamedTuple):
  """One step of a program: outs = bind(*ins)."""

  name: str
  params: dict[str, Any]
  bind: Callable
  ins: list[Value]
  outs: list[Value]
  has_effect: bool = False


class Program:
  """A flat program.

  Attributes:
    inputs: The arguments.
    outputs: The results.
    equations: The steps, in order.
    producer: For each computed value, the index of its equation and its
      position among the equation's results.
  """

  def __init__(self, closed: Any):
    jaxpr = _open(closed)
    self.inputs = [Value(v.aval) for v in jaxpr.invars]
    self.equations: list[Equation] = []
    self.outputs = self._inline(closed, self.inputs)
    self.producer = {
      out: (i, k) for i, e in enumerate(self.equations)
      for k, out in enumerate(e.outs)}
    self._bodies: dict[tuple[int, int | None], Program] = {}

  def made_by(self, value: Value) -> Equation | None:
    """Return the equation that computes a value; None for an argument."""
    if value not in self.producer:
      return None
    return self.equations[self.producer[value][0]]

  def body(self, index: int, branch: int | None = None) -> 'Program':
    """Return the body of a scan, or one branch of a cond, as a program."""
    if (index, branch) not in self._bodies:
      equation = self.equations[index]
      closed = (equation.params['branches'][branch]
                if equation.name == 'cond' else equation.params['jaxpr'])
      self._bodies[index, branch] = Program(closed)
    return self._bodies[index, branch]

  def carries(self, index: int) -> tuple[int, int]:
    """Return the number of constants and of carries of a scan."""
    return compat.scan_sizes(self.equations[index].params)

  def extend(self, fn: Callable, ins: list[Value]) -> list[Value]:
    """Append an equation, and return its results: fn(*ins)."""
    avals = jax.eval_shape(fn, *(
      jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype) for x in ins))
    outs = self._append('extension', {}, fn, ins, avals)
    self.producer |= {
      out: (len(self.equations) - 1, k) for k, out in enumerate(outs)}
    return outs

  def is_zero(self, value: Value) -> bool:
    """Return whether a value is known to be zero everywhere."""
    return value.number == 0 or value in self._zeros

  @functools.cached_property
  def _zeros(self):
    """The computed values that are known to be zero."""
    zeros: set[Value] = set()
    for equation in self.equations:
      if registry.find(equation.name).keeps_zero and any(
          x in zeros or x.number == 0 for x in equation.ins):
        zeros.update(equation.outs)
    return zeros

  def shape_and_dtype(self, atom: Value | Inner) -> tuple[tuple, Any]:
    """Return the shape and dtype of a value, including stacked axes."""
    if isinstance(atom, Value):
      return atom.aval.shape, atom.aval.dtype
    equation = self.equations[atom.equation]
    body = self.body(atom.equation, atom.branch)
    shape, dtype = body.shape_and_dtype(atom.atom)
    if equation.name == 'scan':
      shape = (equation.params['length'], *shape)
    return shape, dtype

  def varying_axes(self, atom: Value | Inner) -> frozenset[str]:
    """Return the mapped axes over which the type of a value varies."""
    if isinstance(atom, Inner):
      return self.body(atom.equation, atom.branch).varying_axes(atom.atom)
    return compat.varying_axes(atom.aval)

  def reached(self, sources: Iterable[Value]) -> set[Value]:
    """Return all values that depend on at least one of the sources."""
    found = set(sources)
    for equation in self.equations:
      if any(x in found for x in equation.ins):
        found.update(equation.outs)
    return found

  def needed(
    self, wanted: Iterable[Atom], effects: bool = False
  ) -> tuple[set[Value], set[int]]:
    """Return the values and the equations that some results depend on."""
    wanted = arguments(list(wanted))
    values = {x for x in wanted if isinstance(x, Value)}
    opened = {x.equation for x in wanted if isinstance(x, Inner)}
    used = set()
    for i in reversed(range(len(self.equations))):
      equation = self.equations[i]
      if i in opened or effects and equation.has_effect or any(
          out in values for out in equation.outs):
        used.add(i)
        values.update(equation.ins)
    return values, used

  def run(
    self, args: Sequence[Any], wanted: Sequence[Atom], effects: bool = False
  ) -> list[Any]:
    """Compute some values, and nothing that they do not depend on.

    Args:
      args: One array per input; None for an input that is not needed.
      wanted: Values of the program, or inside its equations.
      effects: Whether to run equations with side effects, such as prints.
    """
    inside: dict[int, dict[Inner, None]] = {}
    for x in arguments(list(wanted)):
      if isinstance(x, Inner):
        inside.setdefault(x.equation, {})[x] = None
    values, used = self.needed(wanted, effects)
    env: dict[Atom, Any] = dict(zip(self.inputs, args))
    for i in sorted(used):
      equation = self.equations[i]
      ins = [x.constant if x not in env else env[x] for x in equation.ins]
      inner = list(inside.get(i, ()))
      if inner:
        live = [k for k, out in enumerate(equation.outs) if out in values]
        run = control_flow.RUN_IN_PART[equation.name]
        outs, extra = run(self, i, ins, live, inner, effects)
        env.update(zip([*(equation.outs[k] for k in live), *inner],
                       [*outs, *extra]))
      else:
        env.update(zip(equation.outs, equation.bind(*ins)))
    read = lambda x: env[x] if x in env else x.constant
    return [x.fn(*map(read, x.atoms)) if isinstance(x, Computed) else read(x)
            for x in wanted]

  def _inline(self, closed, ins):
    """Append the equations of a jaxpr, inlining calls; return its results."""
    jaxpr, consts = _open(closed), getattr(closed, 'consts', ())
    env = dict(zip(jaxpr.invars, ins))
    env |= {v: Value(v.aval, c) for v, c in zip(jaxpr.constvars, consts)}
    read = lambda x: (Value(x.aval, x.val) if isinstance(x, core.Literal)
                      else env[x])
    for eqn in jaxpr.eqns:
      name, args = eqn.primitive.name, [read(x) for x in eqn.invars]
      if name in _CALLS:
        if eqn.params.get('prevent_cse') and eqn.params.get('differentiated'):
          args = self._append('optimization_barrier', {}, _barrier, args,
                              [x.aval for x in args])
        called = eqn.params.get('jaxpr', eqn.params.get('call_jaxpr'))
        outs = self._inline(called, args)
      else:
        outs = self._append(name, eqn.params, functools.partial(_bind, eqn),
                            args, [x.aval for x in eqn.outvars],
                            bool(eqn.effects))
      env.update(zip(eqn.outvars, outs))
    return [read(x) for x in jaxpr.outvars]

  def _append(self, name, params, bind, ins, avals, has_effect=False):
    outs = [Value(aval) for aval in avals]
    self.equations.append(
      Equation(name, params, bind, ins, outs, has_effect))
    return outs


def _bind(eqn, *args):
  outs = compat.bind(eqn, *args)
  return outs if eqn.primitive.multiple_results else [outs]


def _barrier(*args):
  # Keeps XLA from merging the recomputation of a rematerialized block with
  # the first computation, which would hold its activations after all.
  return jax.lax.optimization_barrier(list(args))


def _open(jaxpr):
  return getattr(jaxpr, 'jaxpr', jaxpr)
