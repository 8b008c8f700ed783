"""How long steps take, as medians that one machine allows to compare."""

import math
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

# Fewer rounds have no median worth its name.
_LEAST_ROUNDS = 3
# Seconds that a visit lasts, about. Of many short steps in a row, only the
# first finds the caches as the way before, which may be huge, has left them.
_VISIT = 0.2


def in_turn(
  steps: dict[str, Callable[..., Any]], *args: Any, rounds: int,
  seconds: float = math.inf, wait_each: bool = True,
) -> dict[str, float]:
  """Time each of `steps`, called with `args`, in rounds that visit all.

  What slows the machine down for a while then slows all of them. A round
  calls a short step several times. Two calls of each go first, to warm up.

  >>> times = in_turn({'double': lambda x: 2 * x}, 21, rounds=3)
  >>> 0 < times['double'] < 1000
  True

  Args:
    steps: What to time, by name.
    *args: What each is called with.
    rounds: How many, unless time runs out.
    seconds: Begin no round after these, but for the first three.
    wait_each: Whether to wait for each call. If not, a visit's calls are
      queued and the last is waited for, as in training on an accelerator.

  Returns:
    name -> median milliseconds.
  """
  begun = time.perf_counter()
  warm = {name: min(_visit(step, args, 2)) for name, step in steps.items()}
  calls = {name: math.ceil(_VISIT / max(t, 1e-6)) for name, t in warm.items()}
  times = {name: [] for name in steps}
  for attempt in range(rounds):
    if (attempt >= _LEAST_ROUNDS
        and time.perf_counter() - begun > seconds):
      break
    for name, step in steps.items():
      times[name] += _visit(step, args, calls[name], wait_each)
  return {name: 1e3 * float(np.median(ts)) for name, ts in times.items()}


def _visit(step, args, calls, wait_each=True):
  """Call a step several times, and return the seconds of each, or of one."""
  durations = []
  if not wait_each:
    start = time.perf_counter()
    for _ in range(calls):
      result = step(*args)
    jax.block_until_ready(result)
    return [(time.perf_counter() - start) / calls]
  for _ in range(calls):
    start = time.perf_counter()
    jax.block_until_ready(step(*args))
    durations.append(time.perf_counter() - start)
  return durations


def describe_device() -> str:
  """Name the hardware."""
  kind = jax.devices()[0].device_kind
  cores = f', {os.cpu_count()} cores' if jax.default_backend() == 'cpu' else ''
  return f'{kind}{cores}'
