"""Figures as SVG that keeps its text readable at any width.

Places along x are percentages and the height is fixed, so that a figure fills
its column and letters keep their size. Each figure carries the texts of its
points for `hover.js`; lines have a <title> for those who go without.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.report import numbers, reading, scales
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


@dataclasses.dataclass(frozen=True)
class Figure:
  """Lines on two axes.

  Attributes:
    title: What is shown, in a few words.
    lines: On these axes.
    caption: What to know of them, such as what a band is.
    x_label, y_label: Of the axes.
    x_log, y_log: Whether an axis is logarithmic.
    guides: (value of y, text) of level lines.
    near: 'x' to read all lines at one x; 'both' for the nearest point.
  """

  title: str
  lines: Sequence[Line]
  caption: str = ''
  x_label: str = 'step'
  y_label: str = ''
  x_log: bool = False
  y_log: bool = False
  guides: Sequence[tuple[float, str]] = ()
  near: str = 'x'


def draw(figure: Figure) -> Raw | None:
  """Write a figure as HTML; None where no value is known."""
  lines = [_thinned(line) for line in figure.lines]
  lines = [_colored(line, i, len(lines)) for i, line in enumerate(lines)]
  lines = [line for line in lines if np.isfinite(line.y).any()]
  x = scales.around([line.x for line in lines], is_log=figure.x_log, pad=0.02)
  ends = [v for line in lines for v in (line.y, line.low, line.high)
          if v is not None]
  y = scales.around([*ends, *(np.array([g]) for g, _ in figure.guides)],
                    is_log=figure.y_log)
  if not lines or x is None or y is None:
    return None
  inner = join(grid(x, y), *(_guide(y, *guide) for guide in figure.guides),
               *(_band(line, x, y) for line in lines if not line.is_dotted),
               *(_marks(line, x, y) for line in lines))
  return framed(figure.title, inner, [_hover(line, x, y) for line in lines],
                _legend(lines), figure.caption, figure.x_label, figure.y_label,
                figure.near, said=_said(figure, lines))


def framed(title: str, inner: Raw, hover: Sequence[dict[str, Any]],
           legend: Raw | None, caption: str, x_label: str, y_label: str,
           near: str = 'x', *, said: str, height: int = HEIGHT,
           is_square: bool = False) -> Raw:
  """Put a drawing between its title and its caption."""
  svg = tag('svg', tag('title', said), inner, width='100%', height=height,
            role='img', aria_label=said)
  plot = tag('div', svg, class_='square plot' if is_square else 'plot',
             tabindex='0', data_near=near,
             data_hover=json.dumps(list(hover), separators=(',', ':')))
  return tag(
    'figure', tag('h4', title), legend, tag('div', y_label, class_='ylabel'),
    plot, tag('div', x_label, class_='xlabel'),
    tag('figcaption', caption) if caption else None)


def percent(share: float) -> str:
  """Write a place along x."""
  return f'{100 * share:.2f}%'


def color(i: int, count: int) -> str:
  """Pick a color of the palette; of many, one between its ends.

  >>> color(0, 2), color(1, 11)
  ('var(--c0)', 'color-mix(in oklab, var(--c0) 80%, var(--c2))')
  """
  if count <= 9:
    return f'var(--c{i})'
  place = 2 * i / (count - 1)  # from blue over green to amber
  low, high = ('--c0', '--c2') if place < 1 else ('--c2', '--c4')
  share = round(100 * (1 - place % 1)) if place < 2 else 0
  return f'color-mix(in oklab, var({low}) {share}%, var({high}))'


def _colored(line, i, count):
  return line if line.color else dataclasses.replace(
    line, color=color(i, count))


def _thinned(line):
  """Keep as many points as can be seen."""
  keep = reading.spread(len(line.x), reading.MAX_POINTS)
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


def _guide(y, value, text):
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
  for px, py in zip(xs, ys):
    if np.isfinite(px) and np.isfinite(py):
      out.append(f'{pen}{px:.1f} {py:.1f}')
      pen = 'L'
    else:
      pen = 'M'
  return ''.join(out)


def _band(line, x, y):
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


def _marks(line, x, y):
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
  for px, a, b in zip(xs, low, high):
    if np.isfinite(px) and np.isfinite(a) and np.isfinite(b):
      at = percent(px / 1000)
      yield tag('line', class_='bar', x1=at, x2=at, y1=f'{a:.1f}',
                y2=f'{b:.1f}', style=f'stroke:{line.color}')


def _hover(line, x, y):
  """Say where the points of a line are, and what to say of each."""
  xs, ys = _places(line, x, y)
  points = [[round(float(px) / 10, 2), round(float(py), 1),
             numbers.short(float(line.x[i])), _text(line, i)]
            for i, (px, py) in enumerate(zip(xs, ys))
            if np.isfinite(px) and np.isfinite(py)]
  return {'name': line.label, 'color': line.color, 'points': points}


def _text(line, i):
  text = numbers.number(float(line.y[i]))
  if line.low is not None:
    ends = (numbers.number(float(end[i])) for end in (line.low, line.high))
    text += f' ({" to ".join(ends)})'
  note = line.notes[i] if len(line.notes) else ''
  return f'{text}{note and ", "}{note}'


def _legend(lines):
  if len(lines) < 2:
    return None
  return legend([(line.label, line.color) for line in lines])


def legend(entries: Sequence[tuple[str, str]]) -> Raw:
  """Name colors."""
  return tag('div', *(tag(
    'span', tag('i', style=f'background:{shade}'), label)
    for label, shade in entries), class_='legend')


def _said(figure, lines):
  """Describe a figure for those who do not see it: its ends, in words."""
  ends = []
  for line in lines[:9]:
    known = np.flatnonzero(np.isfinite(line.y))
    first, last = (numbers.number(float(line.y[i])) for i in known[[0, -1]])
    ends.append(f'{line.label or figure.y_label or "value"}: {first} at first, '
                f'{last} at last')
  more = f', and {len(lines) - 9} more' if len(lines) > 9 else ''
  return f'{figure.title}. {"; ".join(ends)}{more}.'
