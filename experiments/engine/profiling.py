"""A trace of some steps, for TensorBoard or Perfetto."""

import pathlib
from typing import Any

import jax


class Profile:
  """Traces the scans that hold some steps, into `workdir/profile`."""

  def __init__(self, workdir: pathlib.Path, steps: tuple[int, int] | None):
    """Say which.

    Args:
      workdir: Of the run.
      steps: The first step to trace, and the first not to; None traces none.
        A scan is traced as a whole.
    """
    if steps is not None and not 0 <= steps[0] < steps[1]:
      raise ValueError(f'profile={steps}: must be two steps, rising from 0')
    self._folder, self._steps = workdir / 'profile', steps
    self._is_on = False

  def before(self, first: int, last: int, state: Any) -> None:
    """Start or stop ahead of a scan of the steps first to last - 1."""
    wanted = self._steps is not None and (
      first < self._steps[1] and self._steps[0] < last)
    if wanted == self._is_on:
      return
    jax.block_until_ready(state)
    self._turn(wanted)

  def _turn(self, on):
    if on:
      jax.profiler.start_trace(str(self._folder))
    else:
      jax.profiler.stop_trace()
    self._is_on = on

  def __enter__(self) -> 'Profile':
    return self

  def __exit__(self, *_) -> None:
    if self._is_on:
      self._turn(False)
