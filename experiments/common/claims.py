"""A claim: a number with an interval, and the range that bears it out."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

from experiments.common.intervals import UNKNOWN, Interval
from experiments.engine import records

VERDICTS = {'holds': '✓', 'fails': '✗', 'open': '◐', 'unknown': '?'}


@dataclasses.dataclass(frozen=True)
class Claim:
  """One row of the table of claims, of the forest plot and of docs/papers.md.

  Attributes:
    key: A short name, unique in the paper.
    text: What is claimed, in one sentence.
    how: What was measured.
    measured: The value with its interval.
    allowed: The claim holds where the whole interval lies within; a range
      that begins at 0 does not include it.
    paper: The paper's number for the same quantity, where we read it.
    source: Where the paper says so; 'ours' for a control or question of ours.
    runs: The number of independent runs.
    unit: Of the value, for display: '%' shows shares in percent.
    note: What a reader should know, folded away in docs/papers.md.
    second: The interval with another rounding of the same runs. Where the
      runs are chaotic, rounding decides single runs.
  """

  key: str
  text: str
  how: str
  measured: Interval
  allowed: tuple[float, float]
  paper: float | None = None
  source: str = ''
  runs: int = 0
  unit: str = ''
  note: str = ''
  second: Interval | None = None

  @property
  def verdict(self) -> str:
    """Return 'holds', 'fails', 'open' or 'unknown', by the whole interval.

    'open' where the interval allows both, or two roundings disagree.
    """
    found = _verdict(self.measured, self.allowed)
    if self.second is None or _verdict(self.second, self.allowed) == found:
      return found
    return 'open'


def _verdict(measured: Interval, allowed: tuple[float, float]) -> str:
  if not measured.is_known:
    return 'unknown'
  low, high = allowed
  # A range from 0 on means 'above 0': no effect at all does not bear it out.
  is_above = measured.low > 0 if low == 0 else measured.low >= low
  if is_above and measured.high <= high:
    return 'holds'
  is_below = measured.high <= 0 if low == 0 else measured.high < low
  return 'fails' if is_below or measured.low > high else 'open'


def joined(first: Sequence[Claim], second: Sequence[Claim]) -> list[Claim]:
  """Give each claim the interval of the second rounding.

  Unknown where the second rounding could not judge a claim.
  """
  again = {claim.key: claim.measured for claim in second}
  return [dataclasses.replace(claim, second=again.get(claim.key, UNKNOWN))
          for claim in first]


def write(path: pathlib.Path, story: dict[str, Any],
          claims: Sequence[Claim]) -> None:
  """Write the claims as JSON, beside what the paper's study says of itself."""
  keys = [claim.key for claim in claims]
  if len(set(keys)) < len(keys):
    raise ValueError(f'claims={keys}: each key must be unique')
  rows = [dataclasses.asdict(claim) | {'verdict': claim.verdict}
          for claim in claims]
  records.write_whole(path, _plain({**story, 'claims': rows}))


def read(path: pathlib.Path) -> tuple[dict[str, Any], list[Claim]]:
  """Read what `write` wrote: the story, and the claims."""
  story = json.loads(path.read_text())
  rows = story.pop('claims')
  return story, [_claim(row) for row in rows]


def _claim(row: dict[str, Any]) -> Claim:
  row = {name: x for name, x in row.items() if name != 'verdict'}
  number = lambda x: math.nan if x is None else float(x)
  for name in ('measured', 'second'):
    if row[name] is not None:
      row[name] = Interval(*map(number, row[name]))
  low, high = row['allowed']
  row['allowed'] = (-math.inf if low is None else low,
                    math.inf if high is None else high)
  return Claim(**row)


def _plain(x: Any) -> Any:
  """Replace what JSON does not know, infinities and NaN, by None."""
  if isinstance(x, dict):
    return {name: _plain(value) for name, value in x.items()}
  if isinstance(x, (list, tuple)):
    return [_plain(value) for value in x]
  return None if isinstance(x, float) and not math.isfinite(x) else x
