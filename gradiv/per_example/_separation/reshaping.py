"""Rules for moving entries about: examples stay whole and in order."""

import math

from gradiv.per_example._separation.states import (
  State,
  Step,
  mixed,
  problem,
  together,
)


def concatenate(step: Step, *states: State) -> State:
  axis = step.params['dimension']
  numbers = [i for i, s in enumerate(states) if s.kind == 'index']
  last = axis == len(step.outs[0]) - 1
  if len(numbers) == 1 and last and states[numbers[0]].axis != axis:
    at = numbers[0]
    number = State('rows', states[at].axis)
    state = together(step, [*states[:at], number, *states[at + 1:]])
    own = sum(shape[axis] for shape in step.shapes[:at])
    return state if state.kind == 'mixed' else State(
      'lookup', state.axis, own=own)
  state = together(step, states, linear=True)
  if state.kind != 'mixed' and any(
      axis in step.sized(i) for i in range(len(states))):
    return step.across()
  return state


def unstack(step: Step, state: State) -> State:
  axis = step.params['axis'] % len(step.shapes[0])
  state = together(step, [state], linear=True)
  if axis in step.sized(0) and state.kind != 'mixed':
    return step.across()
  return state.moved(state.axis - (axis < state.axis))


def stack(step: Step, *states: State) -> State:
  state = together(step, states, linear=True)
  return state.moved(state.axis + (step.params['axis'] <= state.axis))


def pad(step: Step, state: State, value: State) -> State:
  padding = step.params['padding_config']
  if state.kind != 'mixed' and any(
      tuple(padding[a]) != (0, 0, 0) for a in step.sized(0)):
    return step.across()
  return together(step, [state, value], linear=True)


def part(step: Step, state: State) -> State:
  fault = problem(step, [state])
  whole = step.shapes[0][state.axis:state.axis + 1] == (
    step.outs[0][state.axis:state.axis + 1])
  if not fault and state.kind == 'rows' and not whole:
    return mixed(f'{step.place} may take some of the examples')
  if not fault and not set(step.sized_out()) <= set(step.sized(0)):
    return step.by_place()
  return fault or state


def broadcast(step: Step, state: State) -> State:
  if state.kind in ('rows', 'index'):
    return state.moved(step.params['broadcast_dimensions'][state.axis])
  return state


def reshape(step: Step, state: State) -> State:
  before, after = step.shapes[0], step.outs[0]
  sized, sized_after = step.sized(0), step.sized_out()
  if state.kind == 'mixed' or not sized and not sized_after:
    return state
  starts = lambda shape, axes: [(math.prod(shape[:a]), shape[a]) for a in axes]
  if starts(before, sized) == starts(after, sized_after):
    kept = dict(zip(sized, sized_after))
    return state.moved(kept.get(state.axis, state.axis))
  if len(sized) != 1 or len(sized_after) != 1 or state.kind in (
      'mean', 'index'):
    return step.across()
  # A common value has a row for each example, too.
  outer = state.outer if state.kind == 'rows' else 1
  start, axis = math.prod(before[:sized[0]]) * outer, sized_after[0]
  outer, rest = divmod(start, math.prod(after[:axis]))
  if rest or after[axis] % (outer * step.batch):
    return step.across()
  return State('rows', axis, outer, state.ratio)


def tile(step: Step, state: State) -> State:
  reps, new = step.params['reps'], step.sized_out()
  sized, common = step.sized(0), state.kind in ('common', 'zero')
  if state.kind == 'mixed':
    return state
  if sized == new and all(reps[a] == 1 for a in sized):
    return state
  if common and not sized and len(new) == 1:
    return State('rows', new[0], ratio=state.ratio)
  return step.across()


def transpose(step: Step, state: State) -> State:
  if state.kind in ('rows', 'index'):
    order = list(step.params['permutation'])
    return state.moved(order.index(state.axis))
  return state


def squeeze(step: Step, state: State) -> State:
  gone = [d % len(step.shapes[0]) for d in step.params['dimensions']]
  return state.moved(state.axis - sum(d < state.axis for d in gone))
