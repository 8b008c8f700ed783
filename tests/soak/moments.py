"""When to kill: what a run is seen to do in its folder, and how much later."""

import dataclasses
import math
import pathlib
import random
import time
from collections.abc import Callable

# The seconds at which a whole run gave each sign, and 'ended'.
Times = dict[str, float]


def _newest(folder: pathlib.Path, pattern: str) -> int:
  """Return when the newest file of a pattern was changed; 0 without one."""
  found = [0]
  for path in folder.glob(pattern):
    try:
      found.append(path.stat().st_mtime_ns)
    except FileNotFoundError:  # gone since it was listed
      continue
  return max(found)


# What tells that a run has come so far: a file that is new or was changed.
SIGNS = {'begun': 'config.json', 'recorded': '**/metrics.jsonl',
         'saving': '**/step_*.partial', 'reporting': 'summary.json'}


class Watched:
  """A run that was just started, seen from outside.

  Attributes:
    times: The seconds after which each of `SIGNS` was seen.
  """

  def __init__(self, folder: pathlib.Path):
    """Watch a folder, from now on."""
    self._folder = folder
    self._before = {name: _newest(folder, x) for name, x in SIGNS.items()}
    self._began = time.monotonic()
    self.times: Times = {}

  def look(self, *names: str) -> float:
    """Note which of the signs are there; return the seconds since the start."""
    now = time.monotonic() - self._began
    for name in names:
      if name not in self.times and (
          _newest(self._folder, SIGNS[name]) > self._before[name]):
        self.times[name] = now
    return now


@dataclasses.dataclass(frozen=True)
class Moment:
  """Up to `within` seconds after a sign; '' is the start.

  Attributes:
    sign: One of `SIGNS`.
    within: Of the times of a whole run, the seconds to draw from.
  """

  sign: str
  within: Callable[[Times], float]

  def draw(self, rng: random.Random, whole: Times) -> Callable[[Watched], bool]:
    """Return what says, when asked again and again, that it has come."""
    delay = rng.uniform(0, self.within(whole))

    def has_come(watched: Watched) -> bool:
      now = watched.look(*filter(None, [self.sign]))
      seen = watched.times.get(self.sign, math.inf) if self.sign else 0.0
      return now >= seen + delay

    return has_come


MOMENTS = {
  'start': Moment('', lambda whole: whole['begun']),
  'compile': Moment('begun', lambda whole: whole['recorded'] - whole['begun']),
  'step': Moment('recorded', lambda whole: (
    whole['reporting'] - whole['recorded']) / 4),
  'save': Moment('saving', lambda whole: 0.1),
  'figures': Moment('reporting', lambda whole: (
    whole['ended'] - whole['reporting'])),
  'anytime': Moment('', lambda whole: whole['ended'])}
