"""Figures of several parts together: a line each, on the same axes."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.report import columns, drawing, figures, quantities
from experiments.report.columns import Column
from experiments.report.drawing import Figure, Line
from experiments.report.markup import Raw
from experiments.report.reading import Part

# What people look for first; names that hold one of these words, in this order.
_FIRST = ('loss', 'accuracy', 'validation', 'test', 'batch_size',
          'learning_rate')
# What `figures` draws in forms of its own.
_ELSEWHERE = re.compile(
  r'(.*_)?(sq_norm|variance)(/.*)?|signal.*|batch_size_bound.*|window|at_least'
  r'|until_known|batch_size_at_least|cosine|.*gram|example_(rows|.*norms)'
  r'|noise_scale')


def grouped(parts: Sequence[Part]) -> dict[str, list[Part]]:
  """Put parts together whose names differ in numbers at the end alone."""
  found: dict[str, list[Part]] = {}
  for part in parts:
    found.setdefault(re.sub(r'([_/]\d+)+$', '', part.name), []).append(part)
  return found


def of_group(parts: Sequence[Part], found: Mapping[str, Mapping[str, Column]],
             ) -> tuple[list[Raw], list[Raw]]:
  """Draw the quantities of a group: those to look at first, and the others."""
  first, others = [], []
  if len(parts) > 1:
    first.append(_bounds(parts, found))
  for name in sorted(_names(found[part.name] for part in parts), key=_rank):
    lines = [_line(part, found[part.name][name], len(parts))
             for part in parts if name in found[part.name]]
    whole = [column for part in parts
             if (column := found[part.name].get(name)) is not None]
    caption = whole[0].caption if len(parts) == 1 else (
      'Each line is the median of the trainings of a part.'
      if any(column.lanes > 1 for column in whole) else '')
    drawn = drawing.draw(Figure(
      name, lines, caption, y_log=figures.is_log(
        np.concatenate([line.y for line in lines]))))
    (others if _rank(name)[0] == len(_FIRST) else first).append(drawn)
  return [x for x in first if x is not None], [
    x for x in others if x is not None]


def to_compare(found: Sequence[Mapping[str, Column]]) -> list[str]:
  """List what people look for first and all have recorded."""
  return [name for name in sorted(_names(found), key=_rank)
          if _rank(name)[0] < len(_FIRST)
          and all(name in each for each in found)]


def _bounds(parts, found):
  lines = []
  for part in parts:
    for bound in quantities.bounds(found[part.name])[:1]:
      lines.append(Line(_short(part), bound.steps, bound.value))
  return drawing.draw(Figure('Batch-size bound B_S', lines, 'Each line is the '
                             'median of the trainings of a part.',
                             y_label='examples', y_log=True))


def _line(part, column, count):
  if count > 1:
    return Line(_short(part), column.steps, column.middle())
  return Line('', column.steps, column.middle(), *(column.band() or ()))


def _short(part):
  return part.name.rsplit('/', 1)[-1]


def _names(found):
  return [name for name, column in columns.joined(found).items()
          if column[0].is_scalar and not _ELSEWHERE.fullmatch(name)]


def _rank(name):
  return next((i for i, word in enumerate(_FIRST) if word in name),
              len(_FIRST)), len(name), name
