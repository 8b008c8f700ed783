"""Writes docs/robustness.md from what is computed, or says that it is stale."""

import pathlib

from experiments.common import plots
from experiments.robustness import (
  alarm_page,
  alarms,
  faults,
  table,
  training,
)

DOCS = pathlib.Path(__file__).parents[2] / 'docs'
PAGE, FIGURE = DOCS / 'robustness.md', DOCS / 'results' / 'alarm.png'
BEGIN, END = '<!-- tables: begin -->\n', '<!-- tables: end -->\n'
ALARM = '<!-- alarm: begin -->\n', '<!-- alarm: end -->\n'
_DIGITS = str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹')
# Rounding of another processor or version of jax moves a number by less.
_TOLERANCE = 0.1
# With two workers that turn the mean around, its weights hang on rounding.
_LOOSE = {'FairGrad': 0.4}


def main(is_check: bool) -> int:
  """Write the page, or with `is_check` compare it; return the exit code.

  What the alarm finds is not compared: trainings part by rounding.
  """
  before, now = PAGE.read_text(), tables()
  if is_check:
    if same(between(before, BEGIN, END), now):
      return 0
    print(f'{PAGE} is stale: run python -m experiments.robustness')
    return 1
  found = {name: alarms.replay(training.train(noise))
           for name, noise in training.SETTINGS.items()}
  plots.save(alarm_page.figure(found), FIGURE)
  page = put(before, now, BEGIN, END)
  PAGE.write_text(put(page, alarm_page.tables(found), *ALARM))
  print(f'wrote {PAGE} and {FIGURE}')
  return 0


def between(page: str, begin: str, end: str) -> str:
  """Return what stands between two marks."""
  return page.split(begin)[1].split(end)[0]


def put(page: str, content: str, begin: str, end: str) -> str:
  """Return a page with other content between two marks."""
  head, rest = page.split(begin)
  return head + begin + content + end + rest.split(end)[1]


def tables() -> str:
  """Compute the tables, for one and for two bad workers, as Markdown."""
  return '\n'.join(_table(num_bad) for num_bad in (1, 2))


def _table(num_bad):
  names = ['none', *faults.FAULTS]
  rows = [f'| {rule} | ' + ' | '.join(_shown(row[x]) for x in names) + ' |'
          for rule, row in table.compute(num_bad).items()]
  return '\n'.join([
    f'## {num_bad} of {faults.NUM_WORKERS} workers bad', '',
    '| rule | ' + ' | '.join(names) + ' |', '|---' * (len(names) + 1) + '|',
    *rows, ''])


def _shown(cell: table.Cell) -> str:
  """Write a cell; in italics where the bad workers were left out."""
  return f'*{_number(cell.error)}*' if cell.left_out else _number(cell.error)


def _number(x: float) -> str:
  """Write a number with one or two digits.

  >>> [_number(x) for x in (0, 3e-8, 0.0123, 0.5, 12.3, 2.4e5)]
  ['0', '0', '0.01', '0.5', '12', '2·10⁵']
  """
  if x < 5e-3:
    return '0'
  if x < 1:
    return f'{x:.2f}'.rstrip('0').rstrip('.')
  if x < 100:
    return f'{x:.2g}'
  digit, power = f'{x:.0e}'.split('e+')
  return f'{digit}·10{str(int(power)).translate(_DIGITS)}'


def same(shown: str, now: str) -> bool:
  """Whether two pages are alike, up to a tenth of each number."""
  lines = shown.splitlines(), now.splitlines()
  return len(lines[0]) == len(lines[1]) and all(map(_same_row, *lines))


def _same_row(shown, now):
  cells = [[cell.strip() for cell in line.split('|')] for line in (shown, now)]
  tolerance = _LOOSE.get(cells[0][1] if len(cells[0]) > 1 else '', _TOLERANCE)
  return len(cells[0]) == len(cells[1]) and all(
    _alike(a, b, tolerance) for a, b in zip(*cells))


def _alike(a: str, b: str, tolerance: float) -> bool:
  x, y = map(_value, (a, b))
  if a == b or x is None or y is None or a.startswith('*') != b.startswith('*'):
    return a == b
  return abs(x - y) <= tolerance * max(x, y) + 0.02


def _value(text: str) -> float | None:
  """Read what `_number` wrote; None where it is no number."""
  digit, _, power = text.strip('*').partition('·10')
  try:
    exponent = power.translate({v: chr(k) for k, v in _DIGITS.items()})
    return float(digit) * 10.0 ** int(exponent or 0)
  except ValueError:
    return None
