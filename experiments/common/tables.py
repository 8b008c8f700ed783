"""Tables: one value, written to a terminal and as Markdown."""

import dataclasses
import math
import unicodedata
from collections.abc import Sequence

from experiments.common.claims import VERDICTS, Claim
from experiments.common.intervals import Interval


@dataclasses.dataclass(frozen=True)
class Table:
  """A title, the names of the columns, and rows of text.

  Attributes:
    title: One line.
    columns: Names; the first column is aligned left, all others right.
    rows: Cells of text, as many as there are columns.
    is_text: Whether all columns are aligned left.
  """

  title: str
  columns: Sequence[str]
  rows: Sequence[Sequence[str]]
  is_text: bool = False

  def text(self) -> str:
    """Lay the table out for a terminal."""
    lines = [list(self.columns), *map(list, self.rows)]
    widths = [max(map(_width, column)) for column in zip(*lines)]
    def line(cells):
      return '  '.join(
        _padded(cell, width, right=bool(i) and not self.is_text)
        for i, (cell, width) in enumerate(zip(cells, widths))).rstrip()
    rule = '  '.join('─' * width for width in widths)
    head, *body = map(line, lines)
    return '\n'.join([self.title, '', head, rule, *body])

  def markdown(self) -> str:
    """Write the table as Markdown, without its title."""
    escape = lambda cell: cell.replace('|', '\\|')
    line = lambda cells: f'| {" | ".join(map(escape, cells))} |'
    marks = ['---' if not i or self.is_text else '---:'
             for i in range(len(self.columns))]
    return '\n'.join([line(self.columns), line(marks), *map(line, self.rows)])


def number(x: float | None, unit: str = '', digits: int = 3) -> str:
  """Write a number with `digits` significant digits.

  >>> number(1234.5), number(0.1234), number(0.5, '%'), number(None)
  ('1,234', '0.123', '50.0 %', '–')
  """
  if x is None or math.isnan(x):
    return '–'
  if math.isinf(x):
    return '∞' if x > 0 else '−∞'
  shown = 100 * x if unit == '%' else x
  if unit == '%':  # to a tenth of a percent
    text = f'{shown:.1f} %'.replace('-', '−')
    return text.replace('−0.0 %', '0.0 %')
  text = (f'{shown:,.0f}' if abs(shown) >= 10**(digits - 1)
          else f'{shown:.{digits}g}')
  text = text.replace('-', '−') if 'e' not in text else text
  return f'{text} {unit}'.rstrip()


def with_interval(measured: Interval, unit: str = '') -> str:
  """Write a value with the ends of its interval.

  >>> with_interval(Interval(0.5, 0.25, 1.))
  '0.5 [0.25, 1]'
  """
  if not measured.is_known:
    return number(measured.value, unit)
  low, high = (number(x, unit).removesuffix(f' {unit}') for x in measured[1:])
  return f'{number(measured.value, unit)} [{low}, {high}]'


def plus_minus(mean: float | None, error: float | None, spec: str = '.2f',
               scale: float = 1.) -> str:
  """Write a mean and its standard error.

  >>> plus_minus(0.5, 0.25, '.1f', 100), plus_minus(None, None)
  ('50.0 ± 25.0', 'unknown')
  """
  if mean is None:
    return 'unknown'
  shown = f'{scale * mean:{spec}}'
  return shown if error is None else f'{shown} ± {scale * error:{spec}}'


def allowed(claim: Claim) -> str:
  """Write the range that would bear a claim out."""
  low, high = claim.allowed
  shown = lambda x: number(x, claim.unit)
  if math.isinf(high):
    return f'≥ {shown(low)}' if low else 'above 0'
  return f'≤ {shown(high)}' if math.isinf(low) else (
    f'{shown(low)} to {shown(high)}')


def of_claims(claims: Sequence[Claim], title: str = 'Claims') -> Table:
  """Make the table of claims, verdict first."""
  counts = ', '.join(
    f'{n} {word}' for word in VERDICTS
    if (n := sum(claim.verdict == word for claim in claims)))
  return Table(
    f'{title}: {counts}', ('', 'claim', 'here', 'holds if', 'paper'),
    [(VERDICTS[claim.verdict], claim.text,
      with_interval(claim.measured, claim.unit), allowed(claim),
      number(claim.paper, claim.unit)) for claim in claims], is_text=True)


def _width(text: str) -> int:
  return sum(not unicodedata.combining(c) for c in text)


def _padded(cell: str, width: int, *, right: bool) -> str:
  space = ' ' * (width - _width(cell))
  return space + cell if right else cell + space
