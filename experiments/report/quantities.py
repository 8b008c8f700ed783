"""What follows from the moments in the records: B_S, and the batch used."""

import dataclasses
import re
from collections.abc import Iterator, Mapping

import numpy as np

from experiments.report.columns import Column
from experiments.report.reading import Part

Columns = Mapping[str, Column]

# What a prefix of `sq_norm` and `variance` says; others are shown as they are.
_KINDS = {'': 'tracked', 'example_': 'of single examples', 'exact_': 'exact',
          'group_': 'of groups'}


@dataclasses.dataclass(frozen=True)
class Bound:
  """B_S along the steps.

  Attributes:
    label: Which one it is.
    steps: [T].
    value: [T]; NaN where it is not known.
    low, high: Ends of its band; None where there is none.
    band: What the band is.
    window: [T], how many steps it is about; None where that is not recorded.
  """

  label: str
  steps: np.ndarray
  value: np.ndarray
  low: np.ndarray | None = None
  high: np.ndarray | None = None
  band: str = ''
  window: np.ndarray | None = None


def moments(columns: Columns, group: str = '') -> Iterator[
    tuple[str, Column, Column]]:
  """Yield what holds ‖∇F‖² and tr Σ: (which, sq_norm, variance)."""
  for prefix in ('', 'example_', 'exact_'):
    pair = [columns.get(f'{prefix}{name}{group}')
            for name in ('sq_norm', 'variance')]
    if None not in pair and all(x.is_scalar for x in pair) and (
        len(pair[0].steps) == len(pair[1].steps)):
      yield _KINDS[prefix], *pair


def bounds(columns: Columns) -> list[Bound]:
  """Find B_S in all the forms that it may be recorded in, the best first."""
  found = [x for x in (_recorded(columns), _signal(columns),
                       _noise_scale(columns)) if x is not None][:1]
  for kind, sq_norm, variance in moments(columns):
    if found and kind == 'tracked':
      continue
    found.append(_of_lanes(
      kind, Column(sq_norm.steps, _ratio(variance, sq_norm) + 1)))
  return [x for x in found if np.isfinite(x.value).any()]


def _recorded(columns):
  """Take what `engine.tracked` records."""
  value = columns.get('batch_size_bound')
  if value is None or not value.is_scalar:
    return None
  ends = [columns.get(f'batch_size_bound_{end}') for end in ('low', 'high')]
  if None in ends or value.lanes > 1:
    return _of_lanes('tracked', value)
  window = columns.get('window')
  return Bound('tracked', value.steps, value.middle(),
               *(end.middle() for end in ends), '95 % interval',
               None if window is None else window.middle())


def _signal(columns):
  """Take 1/B_S with its ends, as a paper records it."""
  parts = [columns.get(f'signal{x}') for x in ('', '_high', '_low')]
  if None in parts:
    return None
  inverse = [Column(x.steps, _over(1., x.values)) for x in parts]
  if inverse[0].lanes > 1:
    return _of_lanes('tracked', inverse[0])
  return Bound('tracked', parts[0].steps, *(x.middle() for x in inverse),
               '95 % interval')


def at_least(columns: Columns) -> Column | None:
  """Find the lower bounds on B_S, where no window knows it."""
  column = columns.get('batch_size_at_least', columns.get('at_least'))
  window = columns.get('window')
  if column is None or window is None or (
      column.values.shape != window.values.shape):
    return None
  # 1 says nothing.
  values = np.where((window.values > 0) | (column.values <= 1), np.nan,
                    column.values)
  return Column(column.steps, values) if np.isfinite(values).any() else None


def _noise_scale(columns):
  scale = columns.get('noise_scale')
  return None if scale is None or not scale.is_scalar else _of_lanes(
    'tracked', Column(scale.steps, scale.values + 1))


def _of_lanes(label, column):
  low, high = column.band() or (None, None)
  return Bound(label, column.steps, column.middle(), low, high, '' if (
    low is None) else 'median and spread of the trainings')


def layers(columns: Columns) -> dict[str, Bound]:
  """Find B_S of each layer, by its name: `sq_norm/conv_0` and so on."""
  names = dict.fromkeys(
    match[1] for name in columns
    if (match := re.fullmatch(r'\w*sq_norm(/.+)', name)))
  found = {}
  for name in names:
    for _, sq_norm, variance in moments(columns, name):
      found[name[1:]] = _of_lanes(
        '', Column(sq_norm.steps, _ratio(variance, sq_norm) + 1))
      break
  return found


def batch_used(part: Part, columns: Columns) -> Column | None:
  """Find the batch size of the steps, or None."""
  if (column := columns.get('batch_size')) is not None and column.is_scalar:
    return column
  size = part.defined_by.get('batch_size')
  if size is None and part.timing:
    last = part.timing[-1]
    if last.get('examples_per_second') and last.get('steps_per_second'):
      size = round(last['examples_per_second'] / last['steps_per_second']
                   / max(len(part.lanes), 1))
  if not isinstance(size, (int, float)) or not part.rows:
    return None
  steps = np.array([row['step'] for row in part.rows])
  return Column(steps, np.full((len(steps), 1), float(size)))


def _ratio(top, bottom):
  """Divide where both are positive; NaN elsewhere."""
  good = (top.values > 0) & (bottom.values > 0)
  return np.where(good, _over(top.values, bottom.values), np.nan)


def _over(top, bottom):
  with np.errstate(divide='ignore', invalid='ignore'):
    return top / bottom
