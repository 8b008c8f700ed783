"""The figures of one part: all that its records hold, without options."""

from collections.abc import Iterator, Mapping

import numpy as np

from experiments.report import (
  charts,
  drawing,
  gauges,
  lines as lines_lib,
  numbers,
  quantities,
)
from experiments.report.columns import Column
from experiments.report.drawing import Figure, Line
from experiments.report.markup import Raw, tag
from experiments.report.reading import Part

_LARGEST = 8  # examples that are named


def of_part(part: Part, found: Mapping[str, Column]) -> list[Raw]:
  """Draw what follows from the gradients' records; see `quantities`."""
  drawn = [draw for make in (
    _noise_scale, _phase, _gauges, _cosines, _layers, _examples)
    for draw in make(part, found)]
  return [x for x in drawn if x is not None]


def _noise_scale(part, found) -> Iterator[Raw | None]:
  lines, words = [], set()
  for bound in quantities.bounds(found):
    notes = () if bound.window is None else [
      f'over {x:.0f} steps' if x > 0 else 'not known to a factor of two'
      for x in bound.window]
    words.add(bound.band)
    lines.append(Line(f'B_S, {bound.label}', bound.steps, bound.value,
                      bound.low, bound.high, notes=notes))
  if (least := quantities.at_least(found)) is not None:
    lines.append(Line('B_S is at least', least.steps, least.middle(),
                      color='var(--soft)'))
  if not lines:
    return
  if (used := quantities.batch_used(part, found)) is not None:
    lines.append(Line('batch size used', used.steps, used.middle(),
                      color='var(--ink)', is_dashed=True))
  band = ' and '.join(sorted(words - {''}))
  yield drawing.draw(Figure(
    'Batch-size bound B_S', lines, 'B_S is the noise scale plus 1. Below it, '
    'doubling the batch nearly halves the steps; above it, most added '
    f'examples are wasted.{f" Band: {band}." if band else ""}',
    y_label='examples', y_log=True))


def _phase(part, found) -> Iterator[Raw | None]:
  for kind, sq_norm, variance in list(quantities.moments(found))[:1]:
    lanes = ' Median of the trainings.' if sq_norm.lanes > 1 else ''
    x, y = sq_norm.middle(), variance.middle()
    good = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
    steps, x, y = sq_norm.steps[good], x[good], y[good]
    if len(x) < 2:
      return
    keep = lines_lib.spread(len(x), 120)
    lines = [Line('path', x[keep], y[keep], color='var(--c0)',
                  notes=[f'step {i:,}' for i in steps[keep]])]
    lines += [Line(name, x[at:at + 1] if at >= 0 else x[-1:],
                   y[at:at + 1] if at >= 0 else y[-1:], color=shade,
                   is_dotted=True)
              for name, at, shade in (('first', 0, 'var(--c2)'),
                                      ('last', -1, 'var(--c1)'))]
    lines += _levels(x, y)
    yield drawing.draw(Figure(
      'Signal against noise', lines, f'Up and to the left, the gradients of '
      f'examples disagree more ({kind}).{lanes}', x_label='‖∇F‖²',
      y_label='tr Σ of one example’s gradient', x_log=True, y_log=True,
      near='both'))


def _levels(x, y):
  """Draw where B_S is a power of ten, across what the path covers."""
  ratio = y / x
  for power in range(1, 13):
    scale = 10.**power - 1
    if ratio.min() < scale < ratio.max():
      low, high = max(x.min(), y.min() / scale), min(x.max(), y.max() / scale)
      yield Line(f'B_S = {10**power:,}', np.array([low, high]),
                 scale * np.array([low, high]), color='var(--soft)',
                 is_dashed=True)


def _gauges(part, found) -> Iterator[Raw | None]:
  grams = gauges.grams(found)
  for name, gram in grams.items():
    measured = gauges.measure(gram.values)
    yield drawing.draw(Figure(
      f'Gauges of the mean gradient, by {name}s', [
        Line(kind, gram.steps, Column(gram.steps, x).middle())
        for kind, x in measured.items()],
      'Errors of the mean gradient over its length, from one batch: all of it, '
      'the part along the gradient, the part across it. Above 1, the batch '
      'does not know where to go.', y_label='relative error', y_log=True,
      guides=[(1., '')]))
  used = quantities.batch_used(part, found)
  if grams or used is None:
    return
  for _, sq_norm, variance in list(quantities.moments(found))[:1]:
    size = np.interp(sq_norm.steps, used.steps, used.middle())[:, None]
    with np.errstate(divide='ignore', invalid='ignore'):
      square = variance.values / sq_norm.values / size
    theta = Column(sq_norm.steps, np.sqrt(np.where(square > 0, square, np.nan)))
    yield drawing.draw(Figure(
      'Norm test', [Line('', theta.steps, theta.middle(),
                         *(theta.band() or ()))],
      'Error of the mean gradient of a batch over its length. Above 1, the '
      f'batch does not know where to go. {theta.caption}',
      y_label='relative error', y_log=True, guides=[(1., '')]))


def _cosines(part, found) -> Iterator[Raw | None]:
  for name, gram in gauges.grams(found).items():
    all_of_them = gauges.cosines(gram.values[:, 0])
    pairs = all_of_them[:, ~np.eye(all_of_them.shape[-1], dtype=bool)]
    # A gradient that is zero has no cosine.
    ends = Column(gram.steps, np.where(np.isfinite(pairs), pairs, np.nan))
    lanes = ' Of the first training.' if gram.lanes > 1 else ''
    yield drawing.draw(Figure(
      f'Cosines between {name}s', [Line(
        'median', gram.steps, ends.middle(), *(ends.band() or ()))],
      f'Median of all pairs; the band holds their middle 80 %.{lanes}',
      y_label='cosine', guides=[(0., '')]))
    yield charts.matrix(
      f'Cosines between {name}s at step {gram.steps[-1]:,}', all_of_them[-1],
      name, lanes.strip())
  cosine = found.get('cosine')
  if cosine is not None and cosine.is_scalar:
    yield drawing.draw(Figure(
      'Mean cosine between workers', [Line(
        '', cosine.steps, cosine.middle(), *(cosine.band() or ()))],
      cosine.caption, y_label='cosine', guides=[(0., '')]))


def _layers(part, found) -> Iterator[Raw | None]:
  layers = quantities.layers(found)
  if not layers:
    return
  steps = next(iter(layers.values())).steps
  places = sorted({len(steps) // 4, len(steps) // 2, len(steps) - 1})
  yield charts.rows(
    'B_S of each layer', {
      name: [float(bound.value[i]) if i < len(bound.value) else np.nan
             for i in places] for name, bound in layers.items()},
    [f'step {steps[i]:,}' for i in places], 'examples', '')


def _examples(part, found) -> Iterator[Raw | None]:
  norms = gauges.example_norms(found)
  if norms is None:
    return
  rows, values, step = norms
  order = np.argsort(-np.nan_to_num(values))[:_LARGEST]
  middle = float(np.nanmedian(values))
  largest = '; '.join(
    f'row {rows[i]:.0f}: {numbers.number(float(values[i]))} '
    f'({numbers.number(float(values[i]) / middle, digits=2)} × the median)'
    for i in order)
  drawn = charts.histogram(
    f'Gradient norms of single examples at step {step:,}', values,
    'norm of an example’s gradient')
  if drawn is not None:
    yield drawn
    yield tag('p', tag('strong', 'The largest: '), largest, class_='aside')


def is_log(values: np.ndarray) -> bool:
  """Tell whether positive values span so much that a log axis shows more."""
  x = values[np.isfinite(values)]
  return bool(x.size) and x.min() > 0 and x.max() > 20 * x.min()
