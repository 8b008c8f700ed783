"""How fast a run is, and how long it took."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.report import drawing, figures, numbers
from experiments.report.drawing import Figure, Line
from experiments.report.markup import Raw, join, table, tag
from experiments.report.reading import Part, Run

_NAMES = ('part', 'steps', 'steps per second', 'examples per second',
          'seconds', 'to the first record')


def of_run(run: Run) -> Raw | None:
  """Draw the speed of the parts, and list their times."""
  parts = {part.name: part for part in run.parts if part.timing}
  return listed([(name or '–', part) for name, part in parts.items()],
                speed(parts))


def listed(parts: Sequence[tuple[str, Part]], *drawn: Raw | None
           ) -> Raw | None:
  """List the times of parts by their names, below what is drawn of them."""
  rows = [_row(name, part) for name, part in parts if part.timing]
  return join(tag('h2', 'Time'), *drawn, table(_NAMES, rows, class_='times')
              ) if rows else None


def _row(name, part):
  """Write a row of the table of times: rates without what compiled."""
  per_second = rate(part)
  last = part.timing[-1]
  per_step = (last.get('examples_per_second') or 0.) / last['steps_per_second']
  first = sum(x['seconds'] for x in part.timing if x.get('compiles'))
  return (name, f'{part.step:,}', numbers.number(per_second),
          numbers.number(
            per_second * per_step if per_second and per_step else None),
          numbers.number(seconds(part)), numbers.number(first or None))


def seconds(part: Part) -> float:
  """Add up the processes of a part: the clock of each begins at 0."""
  rows = part.timing
  ends = [a['seconds'] for a, b in zip(rows, rows[1:])
          if b['seconds'] < a['seconds']]
  return sum(ends) + (rows[-1]['seconds'] if rows else 0.)


def rate(part: Part) -> float | None:
  """Compute the median of the steps per second; None where it is not known.

  A record that compiled is none of it, as that is paid once.
  """
  rates = [row['steps_per_second'] for row in _timed(part)]
  return float(np.median(rates)) if rates else None


def _timed(part):
  return [row for row in part.timing
          if not row.get('compiles')]


def speed(parts: Mapping[str, Part]) -> Raw | None:
  """Draw the steps per second of each part; lines that compiled are left out.
  """
  lines = []
  for name, part in parts.items():
    rows = _timed(part)
    # Records may be a step apart: what a clock says of one step is noise.
    size = max(1, len(rows) // 60)
    chunks = [rows[i:i + size] for i in range(0, len(rows), size)]
    if chunks:
      lines.append(Line(
        name, np.array([chunk[-1]['step'] for chunk in chunks]), np.array([
          len(chunk) / sum(1 / row['steps_per_second'] for row in chunk)
          for chunk in chunks])))
  return drawing.draw(Figure(
    'Speed', lines, 'Records and evaluations included, compilation left out.',
    y_label='steps per second',
    y_log=bool(lines) and figures.is_log(np.concatenate([x.y for x in lines]))))
