"""Counts steps to a target, and chooses learning rates: one way for all."""

import numpy as np


def steps_to(target: float, step: np.ndarray, values: np.ndarray, *,
             falling: bool = True) -> np.ndarray:
  """Count the steps until values [..., record] reach a target.

  Args:
    target: A loss to fall to or, with `falling` False, an accuracy to rise to.
    step: The steps [record] of the records.
    values: [..., record]. NaN has not reached the target.
    falling: Whether smaller values are better.

  Returns:
    [...], linear between two records; infinite where never reached.

  >>> loss = np.array([[4., 2., 0.], [4., 3., 2.]])
  >>> steps_to(1., np.array([0, 10, 20]), loss)
  array([15., inf])
  """
  if falling:
    target, values = -target, -values
  values = np.nan_to_num(values, nan=-np.inf)
  reached = values >= target
  first = np.argmax(reached, -1)
  at = lambda i: np.take_along_axis(values, i[..., None], -1)[..., 0]
  before = np.maximum(first - 1, 0)
  with np.errstate(invalid='ignore'):
    rise = at(first) - at(before)
  grows = np.isfinite(rise) & (rise > 0)
  share = np.where(
    grows, (target - at(before)) / np.where(grows, rise, 1), rise > 0)
  steps = step[before] + share * (step[first] - step[before])
  return np.where(reached.any(-1), steps, np.inf)


def fewest(steps: np.ndarray) -> np.ndarray:
  """Choose a rate from steps [..., rate, run], infinite where not reached.

  The rate that gets there in the most runs; of equals, in the fewest steps.
  Returns indices [...].
  """
  reached = np.isfinite(steps)
  mean = np.where(reached, steps, 0).sum(-1) / np.maximum(reached.sum(-1), 1)
  return np.lexsort((mean, (~reached).sum(-1)), axis=-1)[..., 0]


def chosen_on_others(steps: np.ndarray) -> np.ndarray:
  """Choose a rate for each run of steps [rate, run] on all other runs.

  The rate with the fewest steps in the mean over the other runs, so that the
  luck of a run does not choose its own rate. Returns indices [run].
  """
  return np.array([np.delete(steps, run, 1).mean(1).argmin()
                   for run in range(steps.shape[1])])


def is_at_edge(chosen: np.ndarray, num_rates: int) -> np.ndarray:
  """Tell whether chosen rates lie at an end of their grid."""
  return (chosen == 0) | (chosen == num_rates - 1)
