"""What is no line along the steps: histograms, matrices, rows of points."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.report import drawing, numbers, scales, shapes
from experiments.report.markup import Raw, join, tag
from experiments.report.shapes import HEIGHT, percent


def histogram(title: str, values: np.ndarray, x_label: str,
              caption: str = '') -> Raw | None:
  """Count positive values in bins of equal width on a logarithmic axis."""
  values = values[np.isfinite(values) & (values > 0)]
  if len(values) < 2:
    return None
  x = scales.around([values], is_log=True)
  edges = np.geomspace(x.low, x.high, min(24, 4 + len(values) // 4) + 1)
  counts, _ = np.histogram(values, edges)
  y = scales.Scale(0., float(counts.max()) * 1.05)
  bars, hover = [], []
  for count, low, high in zip(counts, edges, edges[1:]):
    left, right = float(x.at(low)), float(x.at(high))
    top = HEIGHT * (1 - float(y.at(count)))
    bars.append(tag(
      'rect', class_='column', x=percent(left + 0.001), y=f'{top:.1f}',
      width=percent(max(right - left - 0.002, 0.001)),
      height=f'{HEIGHT - top:.1f}'))
    hover.append([round(50 * (left + right), 2), round(top, 1),
                  f'{numbers.number(low)} to {numbers.number(high)}',
                  f'{count} of {len(values)}'])
  middle = float(np.median(values))
  return drawing.framed(
    title, join(shapes.grid(x, y), *bars), [
      {'name': 'examples', 'color': 'var(--c0)', 'points': hover}], None,
    caption, x_label, 'examples',
    said=f'{title}: {len(values)} values from {numbers.number(values.min())} '
    f'to {numbers.number(values.max())}, median {numbers.number(middle)}.')


def matrix(title: str, values: np.ndarray, names: str, caption: str
           ) -> Raw | None:
  """Show cosines [n, n] by color, from −1 to 1."""
  n, cells, hover = len(values), [], []
  off = values[~np.eye(n, dtype=bool)]
  off = off[np.isfinite(off)]
  if not off.size:
    return None
  side = HEIGHT / n
  for i, j in np.ndindex(n, n):
    value = float(values[i, j])
    if not np.isfinite(value):
      continue
    shade = 'var(--c1)' if value < 0 else 'var(--c0)'
    cells.append(tag(
      'rect', x=percent(j / n), y=f'{i * side:.1f}', width=percent(1 / n),
      height=f'{side:.1f}',
      style=f'fill:{shade};fill-opacity:{min(abs(value), 1):.2f}'))
    hover.append([round(100 * (j + 0.5) / n, 2), round((i + 0.5) * side, 1),
                  f'{names} {i + 1} and {j + 1}', numbers.number(value)])
  return drawing.framed(
    title, join(*cells), [{'name': 'cosine', 'color': 'var(--c0)',
                           'points': hover}],
    drawing.legend([('−1', 'var(--c1)'), ('0', 'var(--paper)'),
                    ('1', 'var(--c0)')]), caption, '', '', 'both',
    is_square=True,
    said=f'{title}: from {numbers.number(float(off.min()))} to '
    f'{numbers.number(float(off.max()))} between different ones.')


def rows(title: str, found: Mapping[str, Sequence[float]],
         times: Sequence[str], x_label: str, caption: str) -> Raw | None:
  """Draw a row of points for each name, one for each time, on a log axis."""
  x = scales.around([np.array(v, float) for v in found.values()], is_log=True)
  if x is None:
    return None
  step, parts, hover = 30, [], {time: [] for time in times}
  height = step * len(found)
  shades = [f'color-mix(in oklab, var(--c0) {100 * (i + 1) // len(times)}%, '
            'var(--paper))' for i in range(len(times))]  # the last is dark
  for value, text in x.ticks(5):
    at = percent(float(x.at(value)))
    parts += [tag('line', class_='grid', x1=at, x2=at, y1=0, y2=height),
              tag('text', text, class_='xtick', x=at, y=height + 18)]
  for row, (name, values) in enumerate(found.items()):
    middle = step * (row + 0.5)
    # The name stands above its points, so that it may be long.
    parts.append(tag('text', name, class_='rowname', x=0, y=middle - 5))
    parts.append(tag('line', class_='grid', x1=0, x2='100%', y1=middle + 5,
                     y2=middle + 5))
    for value, time, shade in zip(values, times, shades):
      if np.isfinite(value) and value > 0:
        at = float(x.at(value))
        parts.append(tag('circle', cx=percent(at), cy=middle + 5, r=4.5,
                         style=f'fill:{shade}'))
        hover[time].append([round(100 * at, 2), middle + 5, f'{name}, {time}',
                            numbers.number(value)])
  last = ', '.join(f'{name} {numbers.number(values[-1])}'
                   for name, values in list(found.items())[:9])
  return drawing.framed(
    title, join(*parts),
    [{'name': '', 'color': shade, 'points': hover[time]}
     for time, shade in zip(times, shades)],
    drawing.legend(list(zip(times, shades))), caption, x_label, '', 'both',
    said=f'{title}, at the end: {last}.', height=height)
