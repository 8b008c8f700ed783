"""Who chooses the batch size between two scans: nobody, or a controller.

Rows are fetched a scan ahead, in smallest batches, whatever the batch size will
be: which examples are read does not depend on it.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import gradiv
from experiments.engine.compiled import Compiled
from experiments.engine.control import Control
from experiments.engine.program import Program
from experiments.engine.schedule import Schedule
from experiments.engine.workers import Workers


class Fixed:
  """A run of one batch size.

  Attributes:
    inputs: What a scan takes beside rows, state and first step.
    meta: What a checkpoint must hold.
    columns: What to record.
  """

  inputs: tuple = ()
  meta: dict[str, Any] = {}
  columns: dict[str, np.ndarray] = {}

  def __init__(self, put: Callable[[Any], Any]):
    """Take what deals rows out to the devices: `put`."""
    self.ahead = put

  def deal(self, rows: Any) -> Any:
    """Bring to the devices what `ahead` returned, one scan before."""
    return rows

  def look(self, step: int, opt_state: Callable[[], Any], seen: dict) -> None:
    """Choose the next batch size, after a scan."""


class Steered:
  """A run whose batch size a controller chooses; see `Fixed`.

  It waits for each scan, so that the controller can look at its end.
  """

  def __init__(self, control: Control, put: Callable[[Any], Any],
               opt_state: Any, meta: dict[str, Any]):
    """Begin, or go on where a checkpoint was saved.

    Args:
      control: What chooses.
      put: Rows [orders, K, B, ...] -> what a scan takes.
      opt_state: Of the only lane, as it is now.
      meta: Of the checkpoint; {} at the start.

    Raises:
      ValueError: Where the controller needs what `opt_state` does not hold.
    """
    self._control, self._put = control, put
    self._read = _reader(opt_state)
    state = control.init()
    if meta:
      state = jax.tree.structure(state).unflatten(meta['leaves'])
      self._state, self._step = state, meta['examples'] // control.least
    else:
      self._state, self._step = state, 0
      self._look(opt_state, math.nan)

  @property
  def inputs(self) -> tuple:
    return (np.float32(self._control.factor(self._state)),)

  @property
  def meta(self) -> dict[str, Any]:
    """The state of the controller, to the last bit, and the examples seen."""
    return {'control': {'leaves': jax.tree.leaves(self._state),
                        'examples': self._examples}}

  @property
  def columns(self) -> dict[str, np.ndarray]:
    return self._control.columns(self._state, self._examples)

  @property
  def _examples(self) -> int:
    return self._step * self._control.least

  def ahead(self, rows: Any) -> Any:
    return rows

  def deal(self, rows: Any) -> Any:
    multiple = self._control.multiple(self._state)
    def arrange(x):
      orders, length, size, *rest = x.shape
      if size != self._control.least:
        raise ValueError(f'batches of {size} examples: must be those of the '
                         f"ladder's least={self._control.least}")
      return x.reshape(orders, length // multiple, size * multiple, *rest)
    return self._put(jax.tree.map(arrange, rows))

  def look(self, step: int, opt_state: Callable[[], Any], seen: dict) -> None:
    taken = (step - self._step) // self._control.multiple(self._state)
    self._state = self._state._replace(updates=self._state.updates + taken)
    self._step = step
    self._look(opt_state(), float(np.mean(seen['batch_loss'])))

  def _look(self, opt_state, loss):
    reading = self._read and jax.device_get(self._read(opt_state))
    self._state = self._control.look(
      self._state, reading, loss, self._examples)


def of(program: Program, compiled: Compiled, workers: Workers, start: Any
       ) -> Fixed | Steered:
  """Build what chooses the batch sizes of a run, from where it starts."""
  put = lambda rows: compiled.put(workers.split(rows))
  if program.control is None:
    return Fixed(put)
  opt_state = compiled.common(start.state)['opt_state']
  return Steered(
    program.control, put, opt_state, start.meta.get('control', {}))


def plan(program: Program, schedule: Schedule, workers: Workers
         ) -> tuple[tuple, dict[str, np.ndarray]]:
  """Return the `inputs` and `columns` at the start; raise if they do not fit.
  """
  control = program.control
  if control is None:
    return Fixed.inputs, Fixed.columns
  control.check(schedule.scan, workers.num_workers)
  state = control.init()
  return (np.float32(control.factor(state)),), control.columns(state, 0)


def _reader(opt_state) -> Callable[[Any], gradiv.Reading] | None:
  """Build opt_state -> the reading of its only tracker; None without one."""
  try:
    jax.eval_shape(_read_lane, opt_state)
  except ValueError:
    return None
  return _read_lane


@jax.jit
def _read_lane(opt_state):
  return gradiv.read_moments(jax.tree.map(lambda x: x[0], opt_state))
