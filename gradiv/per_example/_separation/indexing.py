"""Rules for indexing, which keeps examples apart if each reads its own."""

from gradiv.per_example._separation.states import (
  COMMON,
  ZERO,
  State,
  Step,
  mixed,
  together,
)


def dynamic_slice(step: Step, state: State, *starts: State) -> State:
  taken = [a for a in {*step.sized(0), *step.sized_out()}
           if step.outs[0][a] != step.shapes[0][a]]
  return _at(step, taken, [state], starts)


def dynamic_update_slice(
  step: Step, state: State, update: State, *starts: State
) -> State:
  taken = [a for a in {*step.sized(0), *step.sized(1)}
           if step.shapes[1][a] != step.shapes[0][a]]
  return _at(step, taken, [state, update], starts)


def gather(step: Step, state: State, indices: State) -> State:
  numbers, shape = step.params['dimension_numbers'], step.shapes[0]
  batching = numbers.operand_batching_dims
  looked_up = [a for a in range(len(step.outs[0]))
               if a not in numbers.offset_dims]
  window = [a for a in range(len(shape)) if a not in (
    *numbers.collapsed_slice_dims, *batching)]
  # Where the axes of each operand come out, if they come out whole.
  of_indices = dict(enumerate(looked_up))
  of_state = {a: out for a, out in zip(window, numbers.offset_dims)
              if step.params['slice_sizes'][a] == shape[a]}
  of_state |= {a: looked_up[j] for a, j in zip(
    batching, numbers.start_indices_batching_dims)}
  if indices.kind == 'index' and step.shapes[1][-1] == 1:
    indices = State('lookup', indices.axis)
  if indices.kind == 'lookup':
    # From an axis of examples each takes what is its own; from another axis
    # it would take what stands at the place that it has in the batch.
    mine = numbers.start_index_map[indices.own]
    if shape[mine] != step.batch or mine not in step.sized(0) or (
        step.params['slice_sizes'][mine] != 1):
      return state if state.kind == 'mixed' else step.by_place()
    of_state[mine] = looked_up[indices.axis]
    indices = State('rows', indices.axis)
  return _aligned(step, (state, indices), (of_state, of_indices))


def scatter(
  step: Step, state: State, indices: State, updates: State
) -> State:
  numbers, shape = step.params['dimension_numbers'], step.shapes[0]
  batching = numbers.operand_batching_dims
  paired = dict(zip(numbers.scatter_indices_batching_dims, batching))
  looked_up = [a for a in range(len(step.shapes[2]))
               if a not in numbers.update_window_dims]
  window = [a for a in range(len(shape)) if a not in (
    *numbers.inserted_window_dims, *batching)]
  of_updates = {u: a for a, u in zip(window, numbers.update_window_dims)
                if a not in numbers.scatter_dims_to_operand_dims
                and step.shapes[2][u] == shape[a]}
  of_updates |= {looked_up[j]: a for j, a in paired.items()}
  of_state = {a: a for a in of_updates.values()}
  return _aligned(step, (state, indices, updates),
                  (of_state, paired, of_updates))


def _at(step, taken, states, starts):
  """Return the state if all examples read or write at the same places."""
  where = together(step, starts)
  if taken and not any(s.kind == 'mixed' for s in (*states, where)):
    return mixed(f'{step.place} may take some of the examples')
  if where.kind in ('common', 'zero'):
    return together(step, states, linear=True)
  return together(step, [*states, where])


def _aligned(step, states, axes):
  """Join operands, given where the axes of each come out in the result.

  Every axis that follows the batch size must come out.
  """
  fault = next((s for s in states if s.kind == 'mixed'), None)
  if fault:
    return fault
  sized = [(step.sized(operand), out) for operand, out in enumerate(axes)]
  new = set(step.sized_out()) - {
    out[a] for axes, out in sized for a in axes if a in out}
  if new or not all(set(axes) <= set(out) for axes, out in sized):
    return mixed(f'{step.place} may pick among the examples')
  state, *rest = (s.moved(out[s.axis]) if s.kind in ('rows', 'index') else s
                  for s, out in zip(states, axes))
  linear = all(s in (COMMON, ZERO) for s in rest)
  return together(step, [state, *rest], linear)
