"""Lines, bands and axes as SVG whose letters keep their size at any width.

Places along x are percentages and the height is fixed, so that a figure fills
its column. Paths, which know no percentages, are stretched, and their strokes
are not.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.report import lines, numbers, scales
from experiments.report.markup import Raw, join, tag

HEIGHT = 230


@dataclasses.dataclass(frozen=True)
class Line:
  """What a figure shows of one quantity.

  Attributes:
    label: For the legend.
    x, y: [T]; NaN is a gap.
    low, high: [T], ends of a band or of bars; None where there is none.
    color: A CSS color; by default the next of the palette.
    is_dashed: Whether the line is dashed.
    is_dotted: Whether to draw points, with bars, and no line.
    notes: [T], more to say of each point; '' where there is nothing.
  """

  label: str
  x: np.ndarray
  y: np.ndarray
  low: np.ndarray | None = None
  high: np.ndarray | None = None
  color: str = ''
  is_dashed: bool = False
  is_dotted: bool = False
  notes: Sequence[str] = ()


def percent(share: float) -> str:
  """Write a place along x."""
  return f'{100 * share:.2f}%'


def thinned(line: Line) -> Line:
  """Keep as many points as can be seen."""
  keep = lines.spread(len(line.x), lines.MAX_POINTS)
  take = lambda v: None if v is None else np.asarray(v, float)[keep]
  return dataclasses.replace(
    line, x=take(line.x), y=take(line.y), low=take(line.low),
    high=take(line.high), notes=[line.notes[i] for i in keep
                                 ] if len(line.notes) else ())


def grid(x: scales.Scale, y: scales.Scale) -> Raw:
  """Draw the lines and texts of both axes."""
  rows = [join(
    tag('line', class_='grid', x1=0, x2='100%', y1=f'{h:.1f}', y2=f'{h:.1f}'),
    tag('text', text, class_='ytick', x=-8, y=f'{h + 4:.1f}'))
    for value, text in y.ticks(5) for h in [_height(y, value)]]
  ticks = [join(
    tag('line', class_='tick', x1=at, x2=at, y1=HEIGHT, y2=HEIGHT + 4),
    tag('text', text, class_='xtick', x=at, y=HEIGHT + 18))
    for value, text in x.ticks(5) for at in [percent(float(x.at(value)))]]
  return join(*rows, tag('line', class_='axis', x1=0, x2='100%', y1=HEIGHT,
                         y2=HEIGHT), *ticks)


def guide(y: scales.Scale, value: float, text: str) -> Raw:
  """Draw a level line with its text."""
  h = _height(y, value)
  return join(
    tag('line', class_='guide', x1=0, x2='100%', y1=f'{h:.1f}', y2=f'{h:.1f}'),
    tag('text', text, class_='note', x='100%', y=f'{h - 4:.1f}'))


def _height(y, value):
  return HEIGHT * (1 - float(y.at(value)))


def _places(line, x, y, name='y'):
  """Return (x, y) of the points in thousandths of the width and in pixels."""
  values = getattr(line, name)
  return 1000 * x.at(line.x), HEIGHT * (1 - y.at(values))


def _stretched(*paths):
  """Draw paths whose x is stretched to the width, and whose strokes are not."""
  return tag('svg', *paths, viewBox=f'0 0 1000 {HEIGHT}', width='100%',
             height=HEIGHT, preserveAspectRatio='none', overflow='visible')


def _path(xs, ys):
  """Write a path; what is not finite is a gap."""
  out, pen = [], 'M'
  for px, py in zip(np.asarray(xs).tolist(), np.asarray(ys).tolist()):
    if math.isfinite(px) and math.isfinite(py):
      out.append(f'{pen}{px:.1f} {py:.1f}')
      pen = 'L'
    else:
      pen = 'M'
  return ''.join(out)


def band(line: Line, x: scales.Scale, y: scales.Scale) -> Raw | None:
  """Fill what lies between `low` and `high`."""
  if line.low is None:
    return None
  xs, low = _places(line, x, y, 'low')
  _, high = _places(line, x, y, 'high')
  # A band that has no end goes on to the edge.
  low = np.where(np.isfinite(line.y) & ~np.isfinite(low), HEIGHT, low)
  high = np.where(np.isfinite(line.y) & ~np.isfinite(high), 0, high)
  good = np.isfinite(xs) & np.isfinite(low) & np.isfinite(high)
  paths = []
  for run in np.split(np.arange(len(xs)), np.flatnonzero(np.diff(good)) + 1):
    if len(run) > 1 and good[run[0]]:
      there, back = run, run[::-1]
      paths.append(_path([*xs[there], *xs[back]], [*low[there], *high[back]])
                   + 'Z')
  return _stretched(tag('path', class_='band', d=''.join(paths),
                        style=f'fill:{line.color}')) if paths else None


def marks(line: Line, x: scales.Scale, y: scales.Scale) -> Raw:
  """Draw the line or its points."""
  xs, ys = _places(line, x, y)
  if line.is_dotted or np.isfinite(ys).sum() == 1:
    return join(*_bars(line, x, y), *(
      tag('circle', cx=percent(px / 1000), cy=f'{py:.1f}', r=4,
          style=f'fill:{line.color}')
      for px, py in zip(xs, ys) if np.isfinite(px) and np.isfinite(py)))
  return _stretched(tag(
    'path', class_='line dashed' if line.is_dashed else 'line',
    d=_path(xs, ys), style=f'stroke:{line.color}'))


def _bars(line, x, y):
  """Draw upright error bars."""
  if line.low is None:
    return
  xs, low = _places(line, x, y, 'low')
  _, high = _places(line, x, y, 'high')
  for px, a, b, value in zip(xs, low, high, line.y):
    if np.isfinite([px, a, b, value]).all():
      at = percent(px / 1000)
      yield tag('line', class_='bar', x1=at, x2=at, y1=f'{a:.1f}',
                y2=f'{b:.1f}', style=f'stroke:{line.color}')


def _place(x):
  """Write where a point is: a step, or a number that was measured."""
  return numbers.short(x) if x.is_integer() else numbers.number(x)


def hover(line: Line, x: scales.Scale, y: scales.Scale) -> dict[str, Any]:
  """Say where the points of a line are, and what to say of each."""
  xs, ys = _places(line, x, y)
  known = np.flatnonzero(np.isfinite(xs) & np.isfinite(ys))
  pick = lambda values: np.asarray(values)[known].tolist()
  said = map(numbers.number, pick(line.y))
  if line.low is not None:
    said = [f'{value} ({numbers.number(low)} to {numbers.number(high)})'
            for value, low, high in zip(said, pick(line.low), pick(line.high))]
  if len(line.notes):
    said = [', '.join(filter(None, (text, line.notes[i])))
            for text, i in zip(said, known)]
  points = [[round(px / 10, 2), round(py, 1), place, text]
            for px, py, place, text in zip(
              pick(xs), pick(ys), map(_place, pick(line.x)), said)]
  return {'name': line.label, 'color': line.color, 'points': points}
