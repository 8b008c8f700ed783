"""Whether a gradient is in proportion to the number that the loss is scaled by.

The backward pass of the mean loss starts from 1/n. As each equation of a
backward pass is linear in what it is handed, it may as well start from 1/n as
be scaled at its end; but a rule of `jax.custom_vjp` may clip what it is handed,
or add something to it. So the program is walked once, from the number on:

  in proportion   a multiple of the number, through equations known to be linear
  zero            is in proportion to anything
  other           does not depend on the number
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend import core

OTHER, ZERO, PROPORTIONAL = 'other', 'zero', 'in proportion'

# Linear in all operands together, or in those at some positions. The others,
# such as indices and what a choice rests on, must not depend on the number.
_JOINTLY: dict[str, tuple[int, ...] | None] = dict.fromkeys((
  'add', 'add_any', 'sub', 'neg', 'convert_element_type', 'reduce_sum',
  'reshape', 'squeeze', 'expand_dims', 'transpose', 'broadcast_in_dim', 'slice',
  'concatenate', 'pad', 'rev', 'copy', 'copy_p', 'cumsum', 'reduce_window_sum',
  'real', 'imag', 'complex', 'conj', 'psum', 'psum2', 'psum_invariant',
  'psum_invariant2', 'pvary', 'pbroadcast', 'pcast', 'all_gather',
  'all_gather_invariant', 'reduce_scatter', 'ppermute', 'all_to_all', 'fft',
  'sharding_constraint', 'mesh_cast', 'reshard', 'optimization_barrier',
  'split', 'stack', 'unstack', 'name'))
_JOINTLY |= {
  'gather': (0,), 'dynamic_slice': (0,), 'dynamic_update_slice': (0, 1),
  'scatter-add': (0, 2), 'scatter': (0, 2), 'triangular_solve': (1,),
  'div': (0,), 'select_and_scatter_add': (0,)}
# Linear in each operand, if the others do not depend on the number.
_IN_EACH = frozenset({
  'mul', 'dot_general', 'conv_general_dilated', 'ragged_dot',
  'ragged_dot_general'})
# Zero wherever the operand is.
_KEEPS_ZERO = frozenset(_JOINTLY) | _IN_EACH
_BODIES = ('jaxpr', 'call_jaxpr', 'fun_jaxpr')


class _NotLinear(Exception):
  """Raised where an equation is not known to be linear."""


def holds(closed: Any, num_results: int, seed: int) -> bool:
  """Return whether gradients are in proportion to an input of their program.

  Args:
    closed: The closed jaxpr: loss and auxiliary output, then the gradients.
    num_results: How many results come before the gradients.
    seed: Position of the input.
  """
  states = [OTHER] * len(closed.jaxpr.invars)
  states[seed] = PROPORTIONAL
  try:
    outs = _walk(closed.jaxpr, closed.consts, states)
  except _NotLinear:
    return False
  return OTHER not in outs[num_results:]


def _walk(jaxpr: Any, consts: Sequence[Any], states: list[str]) -> list[str]:
  """Follow the states of the inputs to those of the outputs."""
  known = dict(zip(jaxpr.invars, states))
  known |= {x: _of_constant(value) for x, value in zip(jaxpr.constvars, consts)}

  def read(x):
    return _of_constant(x.val) if isinstance(x, core.Literal) else known[x]

  for equation in jaxpr.eqns:
    outs = _apply(equation, [read(x) for x in equation.invars])
    known |= dict(zip(equation.outvars, outs))
  return [read(x) for x in jaxpr.outvars]


def _of_constant(value):
  is_zero = isinstance(value, (float, int, np.generic, np.ndarray)) and (
    np.ndim(value) == 0 and value == 0)
  return ZERO if is_zero else OTHER


def _apply(equation, states):
  """Return the states of the results of an equation."""
  name, params = equation.primitive.name, equation.params
  count = len(equation.outvars)
  if PROPORTIONAL not in states and not (
      name in _KEEPS_ZERO and ZERO in states):
    return [OTHER] * count
  if name == 'scan':
    return _scan(params, states)
  if name == 'cond':
    return _cond(params, states)
  for key in _BODIES:
    if key in params:
      body = params[key]
      return _walk(getattr(body, 'jaxpr', body), getattr(body, 'consts', ()),
                   states)
  if name == 'select_n':
    return [_together(states[1:], states[:1])] * count
  if name == 'convert_element_type' and not jnp.issubdtype(
      params['new_dtype'], jnp.inexact):
    raise _NotLinear(name)  # a multiple is rounded to another whole number
  if name in _JOINTLY:
    places = _JOINTLY[name]
    places = range(len(states)) if places is None else places
    return [_together([states[i] for i in places],
                      [x for i, x in enumerate(states) if i not in places])
            ] * count
  if name in _IN_EACH:
    if ZERO in states:
      return [ZERO] * count
    if states.count(PROPORTIONAL) == 1:
      return [PROPORTIONAL] * count
  raise _NotLinear(name)


def _together(states, rest):
  """Return the state of what is linear in several values together."""
  if PROPORTIONAL in rest or PROPORTIONAL in states and OTHER in states:
    raise _NotLinear
  return max(states, key=(ZERO, OTHER, PROPORTIONAL).index)


def _scan(params, states):
  """A carry that starts as zeros may come to be in proportion."""
  body, consts = params['jaxpr'], params['num_consts']
  end = consts + params['num_carry']
  while True:
    outs = _walk(body.jaxpr, body.consts, states)
    carry = [_together([old, new], []) for old, new in zip(
      states[consts:end], outs)]
    if carry == states[consts:end]:
      return outs
    states = [*states[:consts], *carry, *states[end:]]


def _cond(params, states):
  """All branches must agree, or be zero."""
  if states[0] == PROPORTIONAL:
    raise _NotLinear
  outs = [_walk(branch.jaxpr, branch.consts, states[1:])
          for branch in params['branches']]
  return [_together(of_branches, []) for of_branches in zip(*outs)]
