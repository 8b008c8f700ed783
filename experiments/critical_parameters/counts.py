"""Counts of steps by setting and run: which rates, and where they double."""

import numpy as np

from experiments.common import results, tuning


def tuned(steps: np.ndarray, rates: tuple[float, ...]) -> dict:
  """Choose the rate of each run of steps [rate, run] on the other runs.

  Steps are None where a run does not get there.
  """
  best = tuning.chosen_on_others(steps)
  chosen = steps[best, np.arange(len(best))]
  return {'rates': [rates[k] for k in best],
          'at_edge': bool(tuning.is_at_edge(best, len(rates)).any()),
          'steps': [results.known(x) for x in chosen]}


def steps_of(cells: list[dict]) -> np.ndarray:
  """Stack the steps of cells: [cell, run], NaN where unknown."""
  return np.array([cell['steps'] for cell in cells], float)


def doubling(at: tuple[int, ...], steps: np.ndarray) -> np.ndarray:
  """Find where steps [place, run] are twice those of the first place.

  Linear between two places. NaN where they do not double, and next to steps
  that are unknown. `at` may have more places than `steps`.

  >>> doubling((0, 4, 16), np.array([[10.], [15.], [45.]]))
  array([6.])
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
