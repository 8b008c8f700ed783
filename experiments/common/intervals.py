"""Intervals of 95 % over independent runs."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import special  # scipy.stats would take a second to import

LEVEL = 0.95


class Interval(NamedTuple):
  """A value with the ends of its 95 % interval; all NaN where unknown."""

  value: float
  low: float
  high: float

  @property
  def is_known(self) -> bool:
    """Whether all three numbers are finite."""
    return all(map(math.isfinite, self))


UNKNOWN = Interval(math.nan, math.nan, math.nan)


def of_mean(runs: np.ndarray, *, log: bool = False) -> Interval:
  """Return the mean of [runs] with Student's interval; unknown below two runs.

  With `log`, the geometric mean, with the interval of the mean logarithm.

  >>> [round(x, 3) for x in of_mean([1., 2., 3.])]
  [2.0, -0.484, 4.484]
  """
  x = np.asarray(runs, float)
  if log:
    with np.errstate(invalid='ignore', divide='ignore'):
      x = np.log(x)
  if not np.isfinite(x).all() or x.size < 2:
    return UNKNOWN
  error = x.std(ddof=1) / np.sqrt(x.size)
  half = special.stdtrit(x.size - 1, (1 + LEVEL) / 2) * error
  found = x.mean(), x.mean() - half, x.mean() + half
  return Interval(*(float(math.exp(y) if log else y) for y in found))


def of_share(count: int, total: int) -> Interval:
  """Return the share count/total with Wilson's interval.

  >>> [round(x, 3) for x in of_share(9, 12)]
  [0.75, 0.468, 0.911]

  Wilson, `Probable Inference
  <https://doi.org/10.1080/01621459.1927.10502953>`_, 1927.
  """
  z, p = float(special.ndtri((1 + LEVEL) / 2)), count / total
  width = 2 * (total + z**2)
  middle = (2 * total * p + z**2) / width
  half = z / width * math.sqrt(4 * total * p * (1 - p) + z**2)
  return Interval(p, middle - half if count else 0.0,
                  middle + half if count < total else 1.0)


def resampled(
  statistic: Callable[..., float], *samples: np.ndarray, draws: int = 1000,
) -> Interval:
  """Return a statistic of runs with its percentile bootstrap interval.

  Args:
    statistic: Takes the samples and returns a number; NaN where undefined.
    *samples: Arrays [runs, ...], resampled together: run i of each is one run.
    draws: The number of resamples. The draws are the same on every call.
  """
  value, runs = float(statistic(*samples)), len(samples[0])
  if runs < 2:
    return Interval(value, math.nan, math.nan)
  picks = np.random.default_rng(0).integers(runs, size=(draws, runs))
  values = np.array([statistic(*(x[pick] for x in samples)) for pick in picks],
                    float)
  values = values[np.isfinite(values)]
  if not values.size:
    return Interval(value, math.nan, math.nan)
  tail = 50 * (1 - LEVEL)
  low, high = np.percentile(values, (tail, 100 - tail))
  return Interval(value, float(low), float(high))
