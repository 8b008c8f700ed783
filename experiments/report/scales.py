"""Axes: where a value lies between 0 and 1, and which ticks to write."""

import dataclasses
import math
from collections.abc import Iterable

import numpy as np

from experiments.report import numbers


@dataclasses.dataclass(frozen=True)
class Scale:
  """An axis from `low` to `high`."""

  low: float
  high: float
  is_log: bool = False

  def at(self, x: np.ndarray | float) -> np.ndarray:
    """Place values: 0 at the low end, 1 at the high one; NaN off a log."""
    low, high, x = self.low, self.high, np.asarray(x, float)
    if self.is_log:
      with np.errstate(divide='ignore', invalid='ignore'):
        low, high = math.log(low), math.log(high)
        x = np.where(x > 0, np.log(np.where(x > 0, x, 1.)), np.nan)
    return (x - low) / (high - low)

  def ticks(self, most: int) -> list[tuple[float, str]]:
    """Pick round values with their texts."""
    pick = _log_ticks if self.is_log else _ticks
    return [(x, numbers.short(x)) for x in pick(self.low, self.high, most)]


def around(values: Iterable[np.ndarray], *, is_log: bool = False,
           pad: float = 0.05) -> Scale | None:
  """Make the scale that holds all finite values; None where there is none."""
  x = np.concatenate([np.ravel(v) for v in values] or [np.zeros(0)])
  x = x[np.isfinite(x) & ((x > 0) | (not is_log))]
  if not x.size:
    return None
  low, high = float(x.min()), float(x.max())
  if is_log:
    ratio = max((high / low)**pad, 1.05)
    return Scale(low / ratio, high * ratio, True)
  space = pad * (high - low) or pad * abs(high) or 1.
  return Scale(low - space, high + space)


def _ticks(low, high, most):
  """Pick multiples of 1, 2 or 5 times a power of ten."""
  raw = (high - low) / most
  power = 10.**math.floor(math.log10(raw))
  step = next(x * power for x in (1, 2, 5, 10) if x * power >= raw * 0.999)
  first = math.ceil(low / step - 1e-9)
  return [round(i * step, 12) + 0. for i in range(
    first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low, high, most):
  """Pick powers of ten, with multiples of them where these are few.

  >>> _log_ticks(60, 400, 5), _log_ticks(5, 2000, 5)
  ([70.0, 100.0, 200.0, 300.0], [10.0, 30.0, 100.0, 300.0, 1000.0])
  """
  powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
  for factors in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
    found = [f * 10.**p for p in powers for f in factors
             if low <= f * 10.**p <= high]
    if len(found) <= most:
      break
  if len(found) < 2:  # less than a factor of two or so
    return [x for x in _ticks(low, high, most) if x > 0]
  return found[::math.ceil(len(found) / most)]
