"""Figures: lines on two axes, with title, legend and caption.

Each figure carries the texts of its points for `hover.js`, and a description
in words for those who do not see it.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.report import numbers, scales, shapes
from experiments.report.markup import Raw, join, tag
from experiments.report.shapes import HEIGHT, Line as Line


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
  lines = [shapes.thinned(line) for line in figure.lines]
  lines = [_colored(line, i, len(lines)) for i, line in enumerate(lines)]
  lines = [line for line in lines if np.isfinite(line.y).any()]
  x = scales.around([line.x for line in lines], is_log=figure.x_log, pad=0.02)
  ends = [v for line in lines for v in (line.y, line.low, line.high)
          if v is not None]
  y = scales.around([*ends, *(np.array([g]) for g, _ in figure.guides)],
                    is_log=figure.y_log)
  if not lines or x is None or y is None:
    return None
  inner = join(
    shapes.grid(x, y), *(shapes.guide(y, *guide) for guide in figure.guides),
    *(shapes.band(line, x, y) for line in lines if not line.is_dotted),
    *(shapes.marks(line, x, y) for line in lines))
  hover = [shapes.hover(line, x, y) for line in lines]
  label = lambda name, is_log: ', '.join(
    filter(None, (name, 'log scale' if is_log else '')))
  return framed(figure.title, inner, hover, _legend(lines), figure.caption,
                label(figure.x_label, figure.x_log),
                label(figure.y_label, figure.y_log), figure.near,
                said=_said(figure, lines), place=f'{figure.x_label} ')


def framed(title: str, inner: Raw, hover: Sequence[dict[str, Any]],
           legend: Raw | None, caption: str, x_label: str, y_label: str,
           near: str = 'x', *, said: str, height: int = HEIGHT,
           is_square: bool = False, place: str = '') -> Raw:
  """Put a drawing between its title and its caption.

  Args:
    title: Above it.
    inner: What is drawn.
    hover: The texts of its points; see `shapes.hover`.
    legend: The colors and what they are, where there is more than one.
    caption: Below it; may be empty.
    x_label: Of the axis.
    y_label: Of the axis.
    near: As in `Figure`.
    said: All of it in words.
    height: In pixels.
    is_square: Whether it is as wide as it is high.
    place: What to write before the place of a point.
  """
  svg = tag('svg', inner, width='100%', height=height, role='img',
            aria_label=said)
  plot = tag('div', svg, class_='square plot' if is_square else 'plot',
             tabindex='0', data_near=near, data_place=place,
             data_hover=json.dumps(list(hover), separators=(',', ':')))
  return tag(
    'figure', tag('h4', title), legend, tag('div', y_label, class_='ylabel'),
    plot, tag('div', x_label, class_='xlabel'),
    tag('figcaption', caption) if caption else None)


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
