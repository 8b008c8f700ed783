"""A traced function as a flat list of equations that can be run in part.

`jax.make_jaxpr` gives nested calls; here they are opened up, so that the way
back from an output meets every equation. What lies inside a loop or a branch
stays there, but each of its values can be asked for from outside: that is how
a product is caught before it is added up.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.extend import core

from gradiv._common import compat

_CALLS = frozenset({
  'jit', 'pjit', 'closed_call', 'core_call', 'remat', 'remat2', 'checkpoint'})


class Value:
  """A value of a program, by identity; a constant knows its value."""

  __slots__ = ('aval', 'constant')

  def __init__(self, aval: Any, constant: Any = None):
    self.aval = aval
    self.constant = constant


class Inner(NamedTuple):
  """A value inside an equation.

  Of a scan's body, then stacked over the steps, or of a branch of a cond, then
  zero where another branch is taken.

  Attributes:
    equation: Which equation.
    branch: Which branch; None for a scan.
    atom: The value there, or one still further inside.
  """

  equation: int
  branch: int | None
  atom: Any


class Made(NamedTuple):
  """What a function makes of values where they are.

  Attributes:
    fn: Of the values; returns a tree of arrays.
    atoms: Which values.
  """

  fn: Callable
  atoms: tuple['Atom', ...]


Atom = Value | Inner | Made


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
    inputs: Its arguments.
    outputs: Its results.
    equations: What it does, in order.
    producer: Which equation each value comes from, and as which of its outs.
    zeros: Whether values are zero everywhere, where that has been asked.
  """

  def __init__(self, closed: Any):
    jaxpr = _open(closed)
    self.inputs = [Value(v.aval) for v in jaxpr.invars]
    self.equations: list[Equation] = []
    self.outputs = self._inline(closed, self.inputs)
    self.producer = {
      out: (i, k) for i, e in enumerate(self.equations)
      for k, out in enumerate(e.outs)}
    self.zeros: dict[Value, bool] = {}
    self._bodies: dict[tuple[int, int | None], Program] = {}

  def body(self, index: int, branch: int | None = None) -> 'Program':
    """Open the body of a scan, or one branch of a cond."""
    if (index, branch) not in self._bodies:
      equation = self.equations[index]
      closed = (equation.params['branches'][branch]
                if equation.name == 'cond' else equation.params['jaxpr'])
      self._bodies[index, branch] = Program(closed)
    return self._bodies[index, branch]

  def reached(self, sources: Iterable[Value]) -> set[Value]:
    """Find all values that depend on some of these."""
    found = set(sources)
    for equation in self.equations:
      if any(x in found for x in equation.ins):
        found.update(equation.outs)
    return found

  def needed(
    self, wanted: Iterable[Atom], effects: bool = False
  ) -> tuple[set[Value], set[int]]:
    """Find the values and the equations that a result is computed from."""
    wanted = [x for result in wanted for x in (
      result.atoms if isinstance(result, Made) else (result,))]
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
    """Compute some values, and of the rest no more than they need.

    Args:
      args: One for each input; one that is not needed may be None.
      wanted: Values of the program, or inside its equations.
      effects: Whether to print, call back and so on, where the program does.
    """
    results = wanted
    wanted = [x for result in results for x in (
      result.atoms if isinstance(result, Made) else (result,))]
    values, used = self.needed(wanted, effects)
    env = dict(zip(self.inputs, args))
    for i in sorted(used):
      equation = self.equations[i]
      ins = [x.constant if x not in env else env[x] for x in equation.ins]
      inner = list(dict.fromkeys(
        x for x in wanted if isinstance(x, Inner) and x.equation == i))
      if inner:
        live = [k for k, out in enumerate(equation.outs) if out in values]
        run = self._run_scan if equation.name == 'scan' else self._run_cond
        outs, extra = run(i, ins, live, inner, effects)
        env.update({equation.outs[k]: x for k, x in zip(live, outs)})
        env.update(zip(inner, extra))
      else:
        env.update(zip(equation.outs, equation.bind(*ins)))
    read = lambda x: env[x] if x in env else x.constant
    return [x.fn(*map(read, x.atoms)) if isinstance(x, Made) else read(x)
            for x in results]

  def carries(self, index: int) -> tuple[int, int]:
    """Count the constants and the carries of a scan."""
    return compat.scan_sizes(self.equations[index].params)

  def _run_scan(self, index, ins, live, inner, effects):
    """Run a scan with some of its outs, and with values of its body."""
    equation, body = self.equations[index], self.body(index)
    num_consts, num_carry = self.carries(index)
    consts, init, xs = (ins[:num_consts], ins[num_consts:][:num_carry],
                        ins[num_consts + num_carry:])
    atoms = [x.atom for x in inner]
    # What only a sum of products went through is no longer carried.
    kept: list[int] = []
    while True:
      outs = sorted({k for k in live if k >= num_carry} | set(kept)
                    | {k for k in live if k < num_carry})
      wanted = [body.outputs[k] for k in outs] + atoms
      values, _ = body.needed(wanted, effects)
      now = [k for k in range(num_carry) if k in outs
             or body.inputs[num_consts + k] in values]
      if now == kept:
        break
      kept = now
    ys = [k for k in live if k >= num_carry]

    def step(carry, x):
      state = dict(zip(kept, carry))
      args = [*consts, *(state.get(k) for k in range(num_carry)), *x]
      results = body.run(
        args, [body.outputs[k] for k in (*kept, *ys)] + atoms, effects)
      return results[:len(kept)], results[len(kept):]

    params = equation.params
    carry, stacked = lax.scan(
      step, [init[k] for k in kept], xs, length=params['length'],
      reverse=params['reverse'], unroll=params['unroll'])
    outs = dict(zip(kept, carry)) | dict(zip(ys, stacked))
    return [outs[k] for k in live], stacked[len(ys):]

  def _run_cond(self, index, ins, live, inner, effects):
    """Run a cond with some of its outs, and with values of its branches."""
    def run(branch):
      body = self.body(index, branch)
      mine = [x.atom for x in inner if x.branch == branch]

      def taken(*args):
        results = body.run(
          args, [body.outputs[k] for k in live] + mine, effects)
        values = iter(results[len(live):])
        extra = [next(values) if x.branch == branch else compat.zeros_of(
          *shape_and_dtype(self, x), varying(self, x)) for x in inner]
        return results[:len(live)], extra

      return taken

    branches = self.equations[index].params['branches']
    return lax.switch(ins[0], [run(b) for b in range(len(branches))], *ins[1:])

  def _inline(self, closed, ins):
    """Append the equations of a jaxpr, its calls opened; return its outs."""
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


def shape_and_dtype(program: Program, atom: Atom) -> tuple[tuple, Any]:
  """Tell the shape and the dtype of a value, stacks included."""
  if isinstance(atom, Value):
    return atom.aval.shape, atom.aval.dtype
  equation = program.equations[atom.equation]
  shape, dtype = shape_and_dtype(
    program.body(atom.equation, atom.branch), atom.atom)
  if equation.name == 'scan':
    shape = (equation.params['length'], *shape)
  return shape, dtype


def varying(program: Program, atom: Atom) -> frozenset[str]:
  """Tell over which mapped axes the type of a value varies."""
  while isinstance(atom, Inner):
    program, atom = program.body(atom.equation, atom.branch), atom.atom
  return compat.varying_axes(atom.aval)


def _bind(eqn, *args):
  outs = compat.bind(eqn, *args)
  return outs if eqn.primitive.multiple_results else [outs]


def _barrier(*args):
  # What a rematerialised block recomputes must not be shared with the first.
  return jax.lax.optimization_barrier(list(args))


def _open(jaxpr):
  return getattr(jaxpr, 'jaxpr', jaxpr)
