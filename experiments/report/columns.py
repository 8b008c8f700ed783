"""Records as arrays: a quantity of all lanes along the steps."""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from experiments.report.reading import Part


@dataclasses.dataclass(frozen=True)
class Column:
  """A quantity.

  Attributes:
    steps: [T], those at which it was recorded.
    values: [T, lanes, ...]; NaN where a value is not known.
  """

  steps: np.ndarray
  values: np.ndarray

  @property
  def is_scalar(self) -> bool:
    """Whether each lane has one number."""
    return self.values.ndim == 2

  @property
  def lanes(self) -> int:
    """How many trainings there are."""
    return self.values.shape[1]

  def middle(self) -> np.ndarray:
    """The median of the lanes that are known, [T, ...]."""
    return _quantile(self.values, 0.5)

  def band(self) -> tuple[np.ndarray, np.ndarray] | None:
    """Between which values the middle 80 % of the lanes lie, [T, ...] each;
    of fewer than five lanes, all. None of a single lane."""
    if self.lanes < 2:
      return None
    out = 0.1 if self.lanes >= 5 else 0.
    return _quantile(self.values, out), _quantile(self.values, 1 - out)

  @property
  def caption(self) -> str:
    """Say what `middle` and `band` are."""
    if self.lanes < 2:
      return ''
    middle = f'Median of {self.lanes} trainings'
    return f'{middle}; the band holds ' + (
      'the middle 80 % of them.' if self.lanes >= 5 else 'all of them.')


def of_part(part: Part) -> dict[str, Column]:
  """Make a column of each quantity that holds numbers, by its name."""
  found = {}
  names = dict.fromkeys(name for row in part.rows for name in row)
  names.pop('step', None)
  for name in names:
    rows = [row for row in part.rows if name in row]
    try:
      values = np.array([row[name] for row in rows], float)
    except (ValueError, TypeError):  # words, or lists of several lengths
      continue
    if not part.lanes:
      values = values[:, None]
    if values.ndim < 2 or not values.size:
      continue
    found[name] = Column(np.array([row['step'] for row in rows]), values)
  return found


def joined(parts: Iterable[Mapping[str, Column]]) -> dict[str, list[Column]]:
  """List the columns of each name, those of all parts."""
  found: dict[str, list[Column]] = {}
  for part in parts:
    for name, column in part.items():
      found.setdefault(name, []).append(column)
  return found


def _quantile(x, q):
  """Of the known values along the lanes; NaN where none is known."""
  if x.shape[1] == 1:
    return x[:, 0]
  ordered = np.sort(x, axis=1)  # NaN last
  last = np.isfinite(x).sum(1, keepdims=True) - 1
  place = np.clip(q * last, 0, None)
  low = np.floor(place).astype(int)
  take = lambda at: np.take_along_axis(
    ordered, np.clip(at, 0, x.shape[1] - 1), 1)[:, 0]
  share = (place - low)[:, 0]
  with np.errstate(invalid='ignore'):
    found = take(low) * (1 - share) + take(np.ceil(place).astype(int)) * share
  return np.where(last[:, 0] >= 0, found, np.nan)
