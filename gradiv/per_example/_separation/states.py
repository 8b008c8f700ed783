"""States: how a value of a batch loss follows from its single examples.

A loss is traced at two batch sizes, B and 2B, and both programs are read side
by side. A dimension that differs between them is called *sized*: it has
B × outer × inner entries. A number that differs carries its ratio,
value(B) / value(2B). The ratio of 1/B is exactly 2, in every float format.

Each state relates a value to the values that the same program would have for
batches of one example each:

* common: the same for every example, and constant along sized axes;
* rows: those values side by side along an axis (row major, with `outer`
  entries that run slower than the example's index);
* mean: the mean of those values;
* index: the number of the example in the batch, along an axis;
* lookup: rows of indices, one of which is the number of the example;
* zero: 0, or False;
* mixed: none of these could be shown; `why` says what stood in the way.

All but `mixed` hold up to a factor that depends on B alone, given by its ratio.
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
  """The state of one value.

  Attributes:
    kind: A word from the list above.
    axis: The axis of the examples, for rows and an index.
    outer: Number of entries of that axis that run slower than the example.
    ratio: Ratio of the factor that depends on the batch size.
    own: Entry of the last axis that holds the example's number (lookup).
    why: What stood in the way (mixed), or where examples were added (mean).
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
  """Return the state of a value that may depend on other examples."""
  return State('mixed', why=why)


class Step:
  """One equation of both programs, with wordings for what may go wrong."""

  def __init__(self, eqn: core.JaxprEqn, twin: core.JaxprEqn, batch: int,
               caller: 'Step | None' = None, of_jax: bool = False):
    self.name, self.batch = eqn.primitive.name, batch
    self.params, self.twin_params = eqn.params, twin.params
    self.shapes, self.outs = _shapes(eqn.invars), _shapes(eqn.outvars)
    self.twins, self.twin_outs = _shapes(twin.invars), _shapes(twin.outvars)
    # Tokens, which order effects, have no dtype; no rule asks for it.
    self.dtypes: list[Any] = [getattr(v.aval, 'dtype', None)
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
    """Return the number of entries along some axes at B, over that at 2B."""
    pairs = [(self.shapes[operand][a], self.twins[operand][a]) for a in axes]
    return float(np.prod([a / b for a, b in pairs if b]))

  def same_options(self) -> bool:
    """Return whether all options except shapes agree at both sizes."""
    return all(str(value) == str(self.twin_params.get(name))
               for name, value in self.params.items() if name not in _SHAPES)

  @property
  def place(self) -> str:
    """The primitive, and the line of the user's code that it comes from."""
    return f'{self.name} at {self._line}' if self._line else self.name

  @property
  def _line(self):
    traceback = getattr(self._source, 'traceback', None)
    for frame in traceback.frames if traceback is not None else ():
      if not frame.file_name.startswith(OF_JAX):
        return f'{os.path.basename(frame.file_name)}:{frame.line_num}'
    return self._caller._line if self._caller else ''

  def across(self) -> State:
    return mixed(f'{self.place} may mix the examples')

  def pairs(self) -> State:
    return mixed(f'{self.place} may combine examples with one another')

  def by_place(self) -> State:
    return mixed(f'{self.place} may give an example a value that depends on '
                 'its place in the batch')

  def by_size(self) -> State:
    return mixed(f'{self.place} depends on the number of examples')

  def after(self, mean: State, fault: str) -> State:
    return mixed(f'{mean.why} adds over the examples, and {self.place} {fault}')

  def unknown(self) -> State:
    return mixed(f'{self.place} is not known to keep examples apart')


def problem(step: Step, states: Sequence[State]) -> State | None:
  """Return a fault that no operation could repair, or None."""
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
  """Return the state of a result that is computed entry by entry.

  If it is `linear`, a sum of the operands or a choice of one of them, a mean
  stays a mean. A term that is added to a mean must follow the batch size as
  the mean does: mean(l) + c is a mean of losses, but sum(l) + c is not B times
  a mean.
  """
  fault = problem(step, states)
  if fault:
    return fault
  states = list(states) or [COMMON]
  if linear:  # A zero fits any factor.
    states = [s for s in states if s.kind != 'zero'] or [ZERO]
  mean = next((s for s in states if s.kind == 'mean'), None)
  ratios = {s.ratio for s in states}
  if mean and not linear:
    return step.after(mean, 'is not linear in the result')
  if mean and len(ratios) > 1:
    return step.after(mean, 'adds a term that does not grow with the sum: '
                            'the loss must be a mean')
  if len(ratios) > 1 or not linear and ratios != {1.0}:
    return step.by_size()
  first = next((s for s in states if s.kind in ('rows', 'mean')), None)
  if first is None:
    kind = 'zero' if linear and states == [ZERO] * len(states) else 'common'
    first = State(kind, ratio=ratios.pop())
  return first


def of_constant(value: Any, twin: Any, batch: int, literal: bool) -> State:
  """Return the state of a constant, given its value in both programs."""
  strange = mixed('a constant depends on the number of examples')
  if isinstance(value, jax.core.Tracer) or not literal and value is twin:
    return COMMON if value is twin else strange
  try:
    a, b = np.asarray(value), np.asarray(twin)
  except TypeError:  # A typed random key.
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
