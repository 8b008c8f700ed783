"""What is known of a value of a batch loss: does its row i tell of example i?

A loss is traced at two batch sizes, B and 2B, and both programs are read side
by side. A dimension that differs is *sized*: it holds B × outer × inner
entries. A number that differs carries its ratio, value(B) / value(2B): the
ratio of 1/B is exactly 2, in every float format.

Each state says how a value of the batch follows from the values that the same
program has in the batches of one:

* common: the same in each, constant along the axes that are sized;
* rows: those values side by side along an axis, the example's index behind
  `outer` others and before the rest of the axis (row major);
* mean: their mean;
* index: the number of the example, along an axis;
* lookup: rows of indices, of which one is the number of the example;
* zero: 0, or False;
* mixed: none of these, and why.

All but `mixed` hold up to a factor that depends on B alone, with that ratio.
"""

import os.path
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend import core

# Options that say how large a result is; the result's shape says it too.
_SHAPES = ('limit_indices', 'new_sizes', 'reps', 'shape', 'slice_sizes')
OF_JAX = os.path.dirname(jax.__file__) + os.sep


class State(NamedTuple):
  """What is known of a value.

  Attributes:
    kind: As in the list above.
    axis: Along which the examples lie, of rows and of an index.
    outer: Entries of that axis that run slower than the example's index.
    ratio: Of the factor that depends on the batch size.
    own: The entry of the last axis that holds the number, of a lookup.
    why: What went wrong (mixed), or where the examples were added (mean).
  """
  kind: str
  axis: int = 0
  outer: int = 1
  ratio: float = 1.0
  own: int = 0
  why: str = ''

  def times(self, factor: float) -> 'State':
    if self.kind == 'zero':
      return self
    # Rounded: a product of two rounded numbers is compared with a third.
    return self._replace(ratio=float(f'{self.ratio * factor:.12g}'))

  def moved(self, axis: int) -> 'State':
    lies = self.kind in ('rows', 'index')
    return self._replace(axis=axis if lies else 0)


COMMON, ZERO = State('common'), State('zero')


def mixed(why: str) -> State:
  """Say what makes a value depend on other examples, or on their number."""
  return State('mixed', why=why)


class Step:
  """One equation of both programs: shapes, and the words for its faults."""

  def __init__(self, eqn: core.JaxprEqn, twin: core.JaxprEqn, batch: int,
               caller: 'Step | None' = None, of_jax: bool = False):
    self.name, self.batch = eqn.primitive.name, batch
    self.params, self.twin_params = eqn.params, twin.params
    self.shapes, self.outs = _shapes(eqn.invars), _shapes(eqn.outvars)
    self.twins, self.twin_outs = _shapes(twin.invars), _shapes(twin.outvars)
    self.dtypes = [getattr(v.aval, 'dtype', None)
                   for v in (*eqn.invars, *eqn.outvars)]
    # Functions of jax are traced once, and remember who called them first.
    self._source = None if of_jax and caller else eqn.source_info
    self._caller = caller

  def sized(self, operand: int) -> list[int]:
    """List the axes of an operand that follow the batch size."""
    return _differing(self.shapes[operand], self.twins[operand])

  def sized_out(self, out: int = 0) -> list[int]:
    return _differing(self.outs[out], self.twin_outs[out])

  def growth(self, axes: Sequence[int], operand: int = 0) -> float:
    """Compare how many entries lie along axes: at B, over those at 2B."""
    pairs = [(self.shapes[operand][a], self.twins[operand][a]) for a in axes]
    return float(np.prod([a / b for a, b in pairs if b]))

  def same_options(self) -> bool:
    """Tell whether the options are alike at both sizes, but for shapes."""
    return all(str(value) == str(self.twin_params.get(name))
               for name, value in self.params.items() if name not in _SHAPES)

  @property
  def place(self) -> str:
    """Name the primitive, and the line of the caller's code it stems from."""
    return f'{self.name} at {self._line}' if self._line else self.name

  @property
  def _line(self):
    traceback = getattr(self._source, 'traceback', None)
    for frame in traceback.frames if traceback is not None else ():
      if not frame.file_name.startswith(OF_JAX):
        return f'{os.path.basename(frame.file_name)}:{frame.line_num}'
    return self._caller._line if self._caller else ''

  def across(self) -> State:
    return mixed(f'{self.place} goes across the examples')

  def pairs(self) -> State:
    return mixed(f'{self.place} combines examples with one another')

  def by_place(self) -> State:
    return mixed(f'{self.place} gives each example a value that depends on '
                 'its place in the batch')

  def by_size(self) -> State:
    return mixed(f'{self.place} depends on the number of examples')

  def after(self, mean: State, fault: str) -> State:
    return mixed(f'{mean.why} adds over the examples, and {self.place} {fault}')

  def unknown(self) -> State:
    return mixed(f'{self.place} is not known to keep examples apart')


def problem(step: Step, states: Sequence[State]) -> State | None:
  """Find what makes a result mixed, whatever the operation is."""
  for state in states:
    if state.kind == 'mixed':
      return state
  if any(s.kind in ('index', 'lookup') for s in states):
    return step.by_place()
  mean = next((s for s in states if s.kind == 'mean'), None)
  rows = {(s.axis, s.outer) for s in states if s.kind == 'rows'}
  if mean and rows:
    return step.after(mean, 'uses the result for each of them')
  return step.pairs() if len(rows) > 1 else None


def together(
  step: Step, states: Sequence[State], linear: bool = False
) -> State:
  """Tell the state of what is made of values entry by entry.

  `linear`: the result is a sum of the operands, or picks one of them; then a
  mean stays a mean. What is added to it must follow the batch size as it does:
  mean(l) + c is a mean of losses, sum(l) + c is not B times one.
  """
  fault = problem(step, states)
  if fault:
    return fault
  states = list(states) or [COMMON]
  if linear:  # a zero is a zero whatever it is scaled by
    states = [s for s in states if s.kind != 'zero'] or [ZERO]
  mean = next((s for s in states if s.kind == 'mean'), None)
  ratios = {s.ratio for s in states}
  if mean and not linear:
    return step.after(mean, 'of the result is not linear')
  if mean and len(ratios) > 1:
    return step.after(mean, 'adds to the sum what does not grow with it: '
                            'the loss must be a mean')
  if len(ratios) > 1 or not linear and ratios != {1.0}:
    return step.by_size()
  first = next((s for s in states if s.kind in ('rows', 'mean')), None)
  if first is None:
    kind = 'zero' if linear and states == [ZERO] * len(states) else 'common'
    first = State(kind, ratio=ratios.pop())
  return first


def of_constant(value: Any, twin: Any, batch: int, literal: bool) -> State:
  """Compare a constant of one program with that of the other."""
  strange = mixed('a constant depends on the number of examples')
  if isinstance(value, jax.core.Tracer) or not literal and value is twin:
    return COMMON if value is twin else strange
  try:
    a, b = np.asarray(value), np.asarray(twin)
  except TypeError:  # random keys
    return COMMON if value is twin else strange
  if a.shape == b.shape:
    if a.tobytes() == b.tobytes():
      return ZERO if literal and not a.any() else COMMON
    number = a.shape == () and a.dtype != bool and not np.iscomplexobj(a)
    if number and float(a) * float(b) > 0:
      return COMMON.times(float(a) / float(b))
    return strange
  if a.ndim != b.ndim:
    return strange
  if a.shape == (batch,) and np.array_equal(a, np.arange(batch)):
    return State('index')
  first = tuple(slice(0, 1) if axis in _differing(a.shape, b.shape)
                else slice(None) for axis in range(a.ndim))
  uniform = (a == a[first]).all() and (b == b[first]).all()
  return COMMON if uniform and (a[first] == b[first]).all() else mixed(
    'a constant has a value of its own for each example')


def _shapes(atoms: Sequence[Any]) -> list[tuple[int, ...]]:
  return [getattr(a.aval, 'shape', ()) for a in atoms]


def _differing(a: Sequence[int], b: Sequence[int]) -> list[int]:
  return [axis for axis, (m, n) in enumerate(zip(a, b)) if m != n]
