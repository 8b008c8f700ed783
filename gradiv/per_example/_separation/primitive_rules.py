"""One rule per primitive: from the operands' states to the result's."""

import numpy as np
from jax import numpy as jnp

from gradiv.per_example._separation import indexing, reshaping
from gradiv.per_example._separation.states import (
  COMMON,
  ZERO,
  State,
  Step,
  mixed,
  problem,
  together,
)

ELEMENTWISE = frozenset('''
  abs acos acosh and asin asinh atan atan2 atanh bessel_i0e bessel_i1e
  bitcast_convert_type cbrt ceil clamp clz complex cos cosh digamma eq eq_to
  erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igamma_grad_a igammac
  integer_pow is_finite le le_to lgamma log log1p log2 logistic lt lt_to max
  min mulhi ne nextafter not one_minus_square or polygamma polynomial
  population_count pow random_fold_in random_gamma regularized_incomplete_beta
  rem round rsqrt shift_left shift_right_arithmetic shift_right_logical sign
  sin sinh sqrt square tan tanh threefry2x32 xor zeta'''.split())

# Linear in all operands together: the mean of the results is the result of
# the means.
LINEAR = frozenset('''
  add add_any add_jaxvals conj copy copy_p device_put imag name neg
  real reduce_precision sharding_constraint stop_gradient sub'''.split())

COLLECTIVES = frozenset('''
  all_gather all_gather_invariant all_gather_reduced all_to_all pbroadcast
  pgather pmax pmin ppermute psum psum2 psum_invariant psum_scatter
  ragged_all_to_all reduce_scatter unreduced_psum
  unreduced_reduce_scatter'''.split())

# Work along some axes, and treat every position along the others alike.
ALONG = {
  **dict.fromkeys(('cummax', 'cummin', 'cumprod', 'cumlogsumexp', 'cumsum',
                   'split'), lambda p, ndim: [p['axis']]),
  'sort': lambda p, ndim: [p['dimension']],
  'rev': lambda p, ndim: p['dimensions'],
  'top_k': lambda p, ndim: [p.get('axis', ndim - 1) % ndim],
  'fft': lambda p, ndim: range(ndim - len(p['fft_lengths']), ndim),
  **dict.fromkeys(('cholesky', 'eigh', 'lu', 'qr', 'svd', 'triangular_solve'),
                  lambda p, ndim: range(ndim - 2, ndim)),
}
_IDEMPOTENT = ('reduce_max', 'reduce_min', 'reduce_or', 'reduce_and')
_ALONG_LINEAR = ('cumsum', 'rev', 'split')


def elementwise(step: Step, *states: State, linear: bool = False) -> State:
  if any(s and len(s) != len(step.outs[0]) for s in step.shapes):
    return step.unknown()
  return together(step, states, linear)


def linear(step: Step, *states: State) -> State:
  return elementwise(step, *states, linear=True)


def less(step: Step, a: State, b: State) -> State:
  # jnp compares every index with 0, to let negative ones count from the end.
  known = a.kind == 'index' and b.kind == 'zero'
  return ZERO if known else elementwise(step, a, b)


def convert(step: Step, state: State) -> State:
  dtype = step.dtypes[-1]
  if state.kind == 'index' and jnp.issubdtype(dtype, jnp.integer) and (
      jnp.iinfo(dtype).max >= step.batch):
    return state
  exact = jnp.issubdtype(dtype, jnp.inexact)
  return together(step, [state], exact or state.kind == 'zero')


def product(step: Step, a: State, b: State) -> State:
  fault = problem(step, (a, b))
  if fault:
    return fault
  if a.kind == b.kind == 'mean':
    return step.after(a, 'multiplies two such results')
  state = next((s for s in (a, b) if s.kind in ('rows', 'mean')), COMMON)
  return state._replace(ratio=a.ratio).times(b.ratio)


def quotient(step: Step, a: State, b: State) -> State:
  if a.kind != 'mixed' and b.kind == 'mean':
    return step.after(b, 'divides by the result (is it a masked mean? then '
                         'pass mask= to example_moments)')
  whole = not jnp.issubdtype(step.dtypes[-1], jnp.inexact)
  if whole and {a.ratio, b.ratio} != {1.0}:
    return step.by_size()
  return product(step, a, b.times(b.ratio**-2))


def select(step: Step, which: State, *cases: State) -> State:
  if which.kind == 'zero':
    return cases[0]
  picked, known = together(step, cases, linear=True), together(step, [which])
  for state in (picked, known):
    if state.kind == 'mixed':
      return state
  return together(step, [known.times(picked.ratio), picked], linear=True) if (
    known.kind == 'rows') else picked


def reduction(step: Step, *states: State) -> State:
  axes = step.params.get('axes', step.params.get('dimensions'))
  adds = step.name == 'reduce_sum'
  state = together(step, states, adds)
  crossed = [a for a in step.sized(0) if a in axes]
  if state.kind == 'mixed':
    return state
  if state.kind == 'rows' and state.axis in axes:
    if not adds:
      return step.across()
    state = State('mean', ratio=state.ratio, why=step.place)
  if adds:
    state = state.times(step.growth(crossed))
  elif crossed and step.name not in _IDEMPOTENT:
    return step.by_size()
  return state.moved(state.axis - sum(a < state.axis for a in axes))


def along(step: Step, *states: State) -> State:
  state = together(step, states, step.name in _ALONG_LINEAR)
  axes = ALONG[step.name](step.params, len(step.shapes[0]))
  crossed = any(a in axes for a in step.sized(0))
  if crossed and state.kind != 'mixed':
    return step.across() if state.kind == 'rows' else step.by_place()
  return state


def dot(step: Step, lhs: State, rhs: State) -> State:
  contract, batch = step.params['dimension_numbers']
  aligned = []
  for side, state in enumerate((lhs, rhs)):
    if state.kind == 'rows':
      # The axes of the result: batch, then the rest of lhs, then of rhs.
      used = (*batch[side], *contract[side])
      rest = [a for a in range(len(step.shapes[side])) if a not in used]
      start = len(batch[0]) + side * (
        len(step.shapes[0]) - len(batch[0]) - len(contract[0]))
      names = [*batch[side], *[None] * (start - len(batch[0])), *rest]
      state = state.moved(
        names.index(state.axis) if state.axis in names
        else -1 - list(contract[side]).index(state.axis))
    aligned.append(state)
  state = product(step, *aligned)
  state = state.times(step.growth(
    [a for a in contract[0] if a in step.sized(0)]))
  if state.kind == 'rows' and state.axis < 0:
    return State('mean', ratio=state.ratio, why=step.place)
  return state


def convolution(step: Step, lhs: State, rhs: State) -> State:
  numbers = step.params['dimension_numbers']
  state = product(step, lhs, rhs)
  if state.kind == 'mixed':
    return state
  kept = set(step.sized(0)) <= {numbers.lhs_spec[0]} and not step.sized(1)
  if not kept or step.params['batch_group_count'] != 1:
    return step.pairs()
  return state.moved(numbers.out_spec[0])


def window(step: Step, *states: State) -> State:
  neutral = dict(window_dimensions=1, window_strides=1, padding=(0, 0),
                 base_dilation=1)
  for axis in step.sized(0):
    for name, value in neutral.items():
      given = step.params.get(name)
      if given is not None and not np.array_equal(given[axis], value):
        return step.across()
  return together(step, states, step.name == 'reduce_window_sum')


def iota(step: Step) -> State:
  axis, sized = step.params['dimension'], step.sized_out()
  if axis not in sized:
    return COMMON
  number = step.outs[0][axis] == step.batch
  return State('index', axis) if number else step.by_place()


def random(step: Step, state: State) -> State:
  """Random bits and keys: new axes behind those of the keys."""
  state = together(step, [state])
  if state.kind != 'mixed' and any(
      a >= len(step.shapes[0]) for a in step.sized_out()):
    return mixed(f'{step.place} draws for all examples from one key')
  return state


def each(step: Step, *states: State) -> list[State]:
  return list(states)


def default(step: Step, *states: State) -> State:
  """Handle a primitive without a rule: common operands give common results."""
  sized = any(map(step.sized, range(len(states)))) or any(
    map(step.sized_out, range(len(step.outs))))
  plain = together(step, states).kind in ('common', 'zero')
  if plain and not sized:
    return COMMON
  fault = problem(step, states)
  if fault and fault.kind == 'mixed' and fault in states:
    return fault
  if step.name in COLLECTIVES:
    return mixed(f'{step.place} is a collective, which meets the examples of '
                 'other workers')
  return fault or step.unknown()


RULES = {
  **dict.fromkeys(ELEMENTWISE, elementwise), **dict.fromkeys(LINEAR, linear),
  **dict.fromkeys(ALONG, along), 'lt': less, 'convert_element_type': convert,
  'mul': product, 'div': quotient, 'select_n': select,
  **dict.fromkeys((
    'argmax', 'argmin', 'reduce', 'reduce_and', 'reduce_max', 'reduce_min',
    'reduce_or', 'reduce_prod', 'reduce_sum', 'reduce_xor'), reduction),
  **dict.fromkeys((
    'reduce_window', 'reduce_window_max', 'reduce_window_min',
    'reduce_window_sum', 'select_and_gather_add', 'select_and_scatter_add'),
    window),
  'broadcast_in_dim': reshaping.broadcast, 'concatenate': reshaping.concatenate,
  'pad': reshaping.pad, 'reshape': reshaping.reshape, 'slice': reshaping.part,
  'squeeze': reshaping.squeeze, 'stack': reshaping.stack,
  'tile': reshaping.tile, 'transpose': reshaping.transpose,
  'unstack': reshaping.unstack,
  'dot_general': dot, 'conv_general_dilated': convolution,
  **dict.fromkeys(('optimization_barrier', 'pcast', 'pvary'), each),
  'iota': iota, **dict.fromkeys((
    'random_bits', 'random_seed', 'random_split', 'random_unwrap',
    'random_wrap'), random),
  'dynamic_slice': indexing.dynamic_slice,
  'dynamic_update_slice': indexing.dynamic_update_slice,
  'gather': indexing.gather, **dict.fromkeys((
    'scatter', 'scatter-add', 'scatter_add', 'scatter-mul', 'scatter_mul',
    'scatter_max', 'scatter_min'), indexing.scatter),
}
