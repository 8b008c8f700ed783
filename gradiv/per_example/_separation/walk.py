"""The walk over the equations of a batch loss, and the verdict.

Control flow is handled here as well, since its bodies are walked in turn.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import numpy as jnp
from jax.extend import core

from gradiv._common import compat
from gradiv.per_example._separation.indexing import gather
from gradiv.per_example._separation.primitive_rules import RULES, default
from gradiv.per_example._separation.states import (
  COMMON,
  OF_JAX,
  ZERO,
  State,
  Step,
  mixed,
  of_constant,
  together,
)


def check_separate(
  loss_fn: Callable, params: Any, batch: Any, *args: Any,
  has_aux: bool = False,
) -> None:
  """Raise ValueError unless a batch loss is verified to be a mean of losses.

  Verified is that loss(params, {x_1 … x_n}) = (1/n) Σ_i loss(params, {x_i})
  for every batch: what an example contributes does not depend on another
  example, on its own place in the batch, or on n. Nothing is computed: the
  loss is traced for n examples and for 2n (for 2 and 4 if n is 1), and the two
  programs are compared. Auxiliary output is not checked. For `jax.custom_vjp`
  the function is checked, not its derivative.

  >>> batch = jnp.ones((8, 3))
  >>> check_separate(lambda w, x: jnp.mean((x @ w)**2), jnp.ones(3), batch)
  >>> loss_fn = lambda w, x: jnp.mean(jnp.cumsum(x @ w, 0))
  >>> check_separate(loss_fn, jnp.ones(3), batch)  # doctest: +ELLIPSIS
  Traceback (most recent call last):
  ...
  ValueError: could not verify that loss_fn is a mean over its batch: cumsum ...

  Args:
    loss_fn: Function ``loss_fn(params, batch, *args)`` that returns a scalar,
      or a pair (loss, aux).
    params: Its first argument.
    batch: Arrays, each with a leading axis of n examples.
    *args: Arguments that all examples share, such as a random key.
    has_aux: Whether `loss_fn` returns a pair.

  Raises:
    ValueError: Names the first equation that may mix examples, with its source
      line, or says why the loss may not be a mean.
  """
  sizes = {np.shape(x)[:1] for x in jax.tree.leaves(batch)}
  if len(sizes) != 1 or not all(sizes):
    raise ValueError(f'batch has leading axes {sorted(sizes)}: every leaf '
                     'must have one, of the same number of examples')
  size = max(*sizes.pop(), 2)
  only_loss = lambda *a: loss_fn(*a)[0] if has_aux else loss_fn(*a)

  def trace(examples):
    resized = jax.tree.map(lambda x: jax.ShapeDtypeStruct(
      (examples, *x.shape[1:]), x.dtype), batch)
    return jax.make_jaxpr(
      lambda p, b: only_loss(p, b, *args))(params, resized)

  program = trace(size)
  if [a.shape for a in program.out_avals] != [()] or not jnp.issubdtype(
      program.out_avals[0].dtype, jnp.floating):
    raise ValueError('loss_fn must return a real scalar, not '
                     f'{[a.str_short() for a in program.out_avals]}')
  try:
    twin = trace(2 * size)
  except Exception as error:  # of any library: the size alone is new
    raise ValueError(
      f'loss_fn fails on a batch of {2 * size} examples in place of {size}: '
      'it must work for any number of examples') from error
  rows = len(jax.tree.leaves(batch))
  states = [COMMON] * (len(program.in_avals) - rows) + [State('rows')] * rows
  _judge(_walk(program, twin, states, size)[0])


def _judge(loss):
  advice = ('If it is one, write the loss of one example, and use '
            'example_moments.')
  if loss.kind == 'mixed':
    raise _unverified(f'{loss.why}. {advice}')
  if loss.kind == 'mean' and loss.ratio != 1:
    raise _unverified(
      f'{loss.why} adds over the examples, and the sum is not divided by '
      'their number. Return the mean.')
  if loss.ratio != 1:
    raise _unverified(f'it depends on the number of examples. {advice}')


def _unverified(why):
  return ValueError(
    f'could not verify that loss_fn is a mean over its batch: {why}')


def _walk(program, twin, states, batch, caller=None):
  # Since jax 0.12 some programs inside of equations are not closed.
  a, b = (getattr(p, 'jaxpr', p) for p in (program, twin))
  consts, twin_consts = (getattr(p, 'consts', ()) for p in (program, twin))
  env = {v: of_constant(x, y, batch, False) for v, x, y in zip(
    a.constvars, consts, twin_consts)} | dict(zip(a.invars, states))

  def read(atom, other):
    if isinstance(atom, core.Literal):
      return of_constant(atom.val, other.val, batch, True)
    return env[atom]

  of_jax = (a.debug_info.func_filename or '').startswith(OF_JAX)
  for eqn, other in itertools.zip_longest(a.eqns, b.eqns):
    if not eqn or not other or _form(eqn) != _form(other):
      found = Step(eqn, eqn, batch, caller, of_jax) if eqn else caller
      where = f': see {found.place}' if found else ''
      raise _unverified(
        f'its program changes with the number of examples{where}')
    step = Step(eqn, other, batch, caller, of_jax)
    ins = [read(x, y) for x, y in zip(eqn.invars, other.invars)]
    env.update(zip(eqn.outvars, _apply(step, ins)))
  return [read(x, y) for x, y in zip(a.outvars, b.outvars)]


def _form(eqn):
  """Describe what two equations must share to be compared."""
  atoms = [(type(v), len(getattr(v.aval, 'shape', ())))
           for v in (*eqn.invars, *eqn.outvars)]
  return eqn.primitive, len(eqn.invars), atoms


def _apply(step, states):
  """Apply the rule of one equation, and check its result by the shapes."""
  rule = FLOW.get(step.name) or RULES.get(step.name, default)
  if rule not in (_call, gather):  # the only ones that know of a lookup
    states = [step.by_place() if s.kind == 'lookup' else s for s in states]
  outs = rule(step, *states)
  outs = [outs] * len(step.outs) if isinstance(outs, State) else outs
  if step.name not in FLOW and not step.same_options():
    outs = [s if s.kind == 'mixed' else step.by_size() for s in outs]
  return [_held(step, i, s) for i, s in enumerate(outs)]


def _held(step, out, state):
  shape, twin = step.outs[out], step.twin_outs[out]
  if state.kind == 'mixed':
    return state
  if any(twin[axis] != 2 * shape[axis] for axis in step.sized_out(out)):
    return step.by_size()
  if state.kind == 'rows' and (shape[state.axis] == twin[state.axis] or (
      shape[state.axis] % (step.batch * state.outer))):
    return step.unknown()
  return state


def _inner(step, name, states):
  bodies = step.params[name], step.twin_params[name]
  return _walk(*bodies, states, step.batch, step)


def _call(step: Step, *states: State) -> list[State]:
  name = next(n for n in ('jaxpr', 'call_jaxpr', 'fun_jaxpr')
              if n in step.params)
  return _inner(step, name, states)


def _cond(step: Step, which: State, *states: State) -> list[State]:
  outs = [_walk(a, b, states, step.batch, step) for a, b in zip(
    step.params['branches'], step.twin_params['branches'])]
  if which not in (COMMON, ZERO):
    return [together(step, [which, State('rows')])] * len(outs[0])
  return [together(step, branch, linear=True) for branch in zip(*outs)]


def _while(step: Step, *states: State) -> list[State]:
  num_cond, num_body = (step.params[n] for n in ('cond_nconsts',
                                                 'body_nconsts'))
  consts, carry = states[num_cond:][:num_body], states[num_cond + num_body:]
  body = lambda carry: (_inner(step, 'body_jaxpr', (*consts, *carry)), [])
  carry, _ = _fixed_point(step, body, carry)
  go_on, = _inner(step, 'cond_jaxpr', (*states[:num_cond], *carry))
  if together(step, [go_on]).kind not in ('common', 'zero'):
    return [together(step, [go_on])] * len(carry)
  return carry


def _scan(step: Step, *states: State) -> list[State]:
  num_consts, num_carry = compat.scan_sizes(step.params)
  consts, carry = states[:num_consts], states[num_consts:][:num_carry]
  xs = states[num_consts + num_carry:]
  body = lambda carry, xs: _inner(step, 'jaxpr', (*consts, *carry, *xs))
  if step.params['length'] != step.twin_params['length']:
    return _over_examples(step, consts, carry, xs, body)
  entries = [x.moved(x.axis - 1) for x in xs]

  def once(carry):
    outs = body(carry, entries)
    return outs[:num_carry], outs[num_carry:]

  carry, ys = _fixed_point(step, once, carry)
  return [*carry, *(y.moved(y.axis + 1) for y in ys)]


def _over_examples(step, consts, carry, xs, body):
  """Accept a map over the examples if each needs only its own, or common."""
  count = len(step.outs)
  fault = next((s for s in (*consts, *carry, *xs) if s.kind == 'mixed'), None)
  if fault:
    return [fault] * count
  sized = any(map(step.sized, range(len(consts))))
  apart = all(x in (State('rows'), COMMON) for x in xs) and all(
    c.kind in ('common', 'zero') for c in consts)
  if carry or sized or not apart or step.params['length'] != step.batch:
    return [mixed(f'{step.place} goes from one example to the next')] * count
  # Within the body there is one example, so all its values are common ones.
  ys = [together(step, [y], linear=True)
        for y in body((), [COMMON] * len(xs))]
  return [y if y.kind == 'mixed' else State('rows', ratio=y.ratio)
          for y in ys]


def _fixed_point(step, body, carry):
  """Find a state of the carry that holds before and after every round."""
  while True:
    outs, rest = body(carry)
    joined = [together(step, pair, linear=True) for pair in zip(carry, outs)]
    if all(new._replace(why=old.why) == old
           for new, old in zip(joined, carry)):
      return joined, rest
    carry = joined


FLOW = {
  **dict.fromkeys((
    'call', 'checkpoint', 'closed_call', 'core_call', 'custom_jvp_call',
    'custom_vjp_call', 'custom_vjp_call_jaxpr', 'jit', 'pjit', 'remat',
    'remat2'), _call),
  'cond': _cond, 'scan': _scan, 'while': _while,
}
