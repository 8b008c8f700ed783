"""Tables: one value, written to a terminal and as Markdown."""

import dataclasses
import unicodedata
from collections.abc import Sequence

from experiments.common.claims import VERDICTS, Claim
from experiments.report import numbers
from experiments.report.numbers import (
  number as number,
  with_interval as with_interval,
)


@dataclasses.dataclass(frozen=True)
class Table:
  """A title, the names of the columns, and rows of text.

  Attributes:
    title: A line, or a few.
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


def measured(claim: Claim) -> str:
  """Write what was measured, with its interval."""
  return with_interval(claim.measured, claim.unit, claim.allowed)


def allowed(claim: Claim) -> str:
  """Write the range that would bear a claim out."""
  return numbers.within(*claim.allowed, claim.unit)


def of_claims(claims: Sequence[Claim], title: str = 'Claims') -> Table:
  """Make the table of claims, verdict first."""
  counts = ', '.join(
    f'{n} {word}' for word in VERDICTS
    if (n := sum(claim.verdict == word for claim in claims)))
  return Table(
    f'{title}: {counts}', ('', 'claim', 'here', 'holds if', 'paper'),
    [(VERDICTS[claim.verdict], claim.text,
      measured(claim), allowed(claim), number(claim.paper, claim.unit))
     for claim in claims], is_text=True)


def _width(text: str) -> int:
  return sum(not unicodedata.combining(c) for c in text)


def _padded(cell: str, width: int, *, right: bool) -> str:
  space = ' ' * (width - _width(cell))
  return space + cell if right else cell + space
