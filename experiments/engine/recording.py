"""What a run records: metrics where they are due, written one scan late.

The device works on a scan while the host writes what the scan before it
computed. A record is a pure function of the run: what a scan has seen since the
last record is part of the checkpoint.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.engine import left_out as left_out_lib


class _Late(NamedTuple):
  """What a scan has left to do: wait for it, and write its record."""
  step: int
  seen: dict[str, jax.Array]
  values: dict[str, jax.Array] | None
  is_finite: jax.Array | None
  left_out: Any = None


class Recording:
  """Follows a run scan by scan.

  Attributes:
    diverged_at: The step of the first record at which no lane was finite, or
      None. Nothing is recorded behind it but nulls.
    left_out: Counts the gradients that are not finite.
  """

  def __init__(self, compiled, schedule, log, clock, bar, *, is_single=False,
               also: Callable[[], dict[str, np.ndarray]] = dict,
               left_out: left_out_lib.LeftOut):
    """Set up.

    Args:
      compiled: The programs of the run.
      schedule: What is due when.
      log: A writer, see `writers`.
      clock: Told of each scan that the device has finished, see `clock`.
      bar: The progress bar.
      is_single: Whether to record numbers in place of lists of lanes.
      also: Returns what else to record of the present step, [L] each.
      left_out: Told of each scan that the device has finished.
    """
    self._compiled, self._schedule = compiled, schedule
    self._log, self._clock, self._bar = log, clock, bar
    self._is_single, self._also = is_single, also
    self._window, self._late, self._seen = [], None, {}
    self.diverged_at, self.left_out = None, left_out

  def begin(self, first: int, state: dict, window: list[dict]) -> None:
    """Record the start of a run, or take up one that was cut off.

    Args:
      first: The step that has been reached.
      state: Of that step.
      window: That of the `meta` of its checkpoint.
    """
    self._window = [{name: np.asarray(x, jnp.dtype(dtype))
                     for name, (dtype, x) in seen.items()} for seen in window]
    values = None
    if not first:
      values = joined(self._compiled.evaluate(state), self._also())
    due = first % self._schedule.record_every == 0
    self._late = _Late(
      first, {}, values, self._compiled.is_finite(state) if due else None)

  def add(self, step: int, seen: dict, state: dict) -> None:
    """Measure what is due after a scan, and write what was due before it.

    Args:
      step: The steps that are done.
      seen: What the scan returned beside the state.
      state: Of that step; not kept.
    """
    left_out = seen.pop('left_out', None)
    self._window.append(seen)
    self._seen = seen
    values = is_finite = None
    if step % self._schedule.record_every == 0:
      whole = step % self._schedule.evaluate_every == 0
      values = joined((self._compiled.evaluate if whole else
                       self._compiled.read)(state), self._average())
      values = joined(values, self._also())
      is_finite = self._compiled.is_finite(state)
      self._window = []
    late, self._late = self._late, _Late(
      step, seen, values, is_finite, left_out)
    self._finish(late)

  def flush(self) -> None:
    """Wait for the last scan, and write its record."""
    late, self._late = self._late, None
    self._finish(late)

  @property
  def meta(self) -> dict[str, Any]:
    """What a checkpoint must hold: what was seen since the last record.

    And what was left out since the start.
    """
    window = [{name: (str(x.dtype), np.asarray(x).tolist())
               for name, x in seen.items()} for seen in self._window]
    return ({'window': window} if window else {}) | self.left_out.meta

  def fill(self, state: dict) -> None:
    """Record nulls where records are due behind `diverged_at`."""
    period = self._schedule.record_every
    both = jax.eval_shape(self._compiled.evaluate, state), jax.eval_shape(
      self._compiled.read, state)
    seen = jax.eval_shape(lambda: joined(self._seen, self._also()))
    for step in range(self.diverged_at + period, self._schedule.steps + 1,
                      period):
      shapes = joined(both[step % self._schedule.evaluate_every != 0], seen)
      self._write(step, jax.tree.map(
        lambda x: np.full(x.shape, np.nan, np.float32), shapes))

  def _average(self):
    if len(self._window) == 1:
      return self._window[0]
    return jax.tree.map(lambda *xs: jnp.stack(xs).mean(0), *self._window)

  def _finish(self, late):
    if late is None or self.diverged_at is not None:
      return
    jax.block_until_ready(late.seen)
    if late.seen:
      self._bar.update(self._schedule.scan)
    self.left_out.add(late.step, late.left_out)
    if late.values is not None:
      self._write(late.step, joined(late.values, self.left_out.columns))
    self._clock.tick(late.step, is_due=late.is_finite is not None)
    if late.is_finite is not None and not late.is_finite:
      self.diverged_at = late.step

  def _write(self, step, values):
    values = jax.device_get(values)
    if self._is_single:
      values = jax.tree.map(lambda x: x[0], values)
    self._log.write_scalars(step, values)


def joined(values: dict[str, Any], seen: dict[str, Any]) -> dict[str, Any]:
  """Join what was evaluated and what the loss reports into one record.

  >>> joined({'loss': 1.}, {'batch_loss': 2.})
  {'loss': 1.0, 'batch_loss': 2.0}
  """
  if twice := sorted(values.keys() & seen.keys()):
    raise ValueError(f'{twice} is returned by the loss and by evaluate or '
                     'read: each quantity needs a name of its own')
  return values | seen
