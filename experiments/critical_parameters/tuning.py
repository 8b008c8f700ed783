"""What the studies of `critical_parameters` share: tuning, doubling, errors."""

import math

import numpy as np

# Student's t, 97.5 %, of 1, 2, ... degrees of freedom.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def choose(steps: np.ndarray, rates: tuple[float, ...]) -> dict:
  """Choose a rate for each run of steps [rates, runs]: the best of the others.

  That of the fewest steps in their mean, so that no run is told of at a rate
  that its own luck chose. Steps are None where a run does not get there.
  """
  runs = steps.shape[1]
  best = [int(np.delete(steps, i, 1).mean(1).argmin()) for i in range(runs)]
  chosen = [float(steps[k, i]) for i, k in enumerate(best)]
  return {'rates': [rates[k] for k in best],
          'at_edge': any(k in (0, len(rates) - 1) for k in best),
          'steps': [x if np.isfinite(x) else None for x in chosen]}


def as_array(steps: list) -> np.ndarray:
  """Make NaN of None: unknown, and so is all that is computed from it."""
  return np.array([np.nan if x is None else x for x in steps], float)


def doubling(at: np.ndarray, steps: np.ndarray) -> np.ndarray:
  """Find where steps [places, runs] are twice those of the first place.

  Linear between two places; NaN where they are not, or next to what is not
  known.
  """
  found = []
  for run in steps.T:
    above = np.flatnonzero(~(run <= 2 * run[0]))
    if not len(above) or above[0] == 0 or np.isnan(run[above[0]]):
      found.append(np.nan)
      continue
    i = above[0]
    share = (2 * run[0] - run[i - 1]) / (run[i] - run[i - 1])
    found.append(at[i - 1] + share * (at[i] - at[i - 1]))
  return np.array(found)


def interval(runs: np.ndarray) -> tuple[float, float, float]:
  """Compute the mean of [runs] and its 95 % interval; all NaN if unknown."""
  if not np.isfinite(runs).all() or len(runs) < 2:
    return math.nan, math.nan, math.nan
  free = len(runs) - 1
  z = 1.96
  t = _STUDENT[free - 1] if free <= len(_STUDENT) else (
    z + (z**3 + z) / (4 * free)
    + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2))
  half = t * runs.std(ddof=1) / math.sqrt(len(runs))
  return float(runs.mean()), float(runs.mean() - half), float(
    runs.mean() + half)
