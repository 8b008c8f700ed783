"""A run in a terminal, for those on a server without a browser."""

import math

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from experiments.report import (
  columns,
  figures,
  lines,
  numbers,
  page,
  quantities,
  timing,
  verdicts,
)
from experiments.report.reading import Part, Run

_STYLES = {'holds': 'green', 'fails': 'red', 'open': 'yellow',
           'unknown': 'dim'}
_BARS = '▁▂▃▄▅▆▇█'
_LOSSES = ('loss', 'batch_loss')


def show(run: Run, console: Console) -> None:
  """Print a run once."""
  console.print(view(run))


def watch(console: Console) -> Live:
  """Make what shows a run in place; `update(view(run))` shows a new state."""
  return Live(console=console, auto_refresh=False)


def view(run: Run) -> Group:
  """Lay out a run: what it says, its parts, its claims."""
  shown = [Text(run.story.get('title') or run.name, style='bold'),
           Text(page.status(run), style='dim')]
  if run.story.get('sentence'):
    shown.append(Text(run.story['sentence']))
  shown += [Text(f'{part.name}: {part.advice}' if part.name else part.advice)
            for part in run.parts if part.advice]
  if run.parts:
    shown.append(_parts(run))
  if run.claims:
    shown.append(_claims(run))
  return Group(*shown)


def sparkline(values: np.ndarray, width: int = 12) -> str:
  """Draw a line of numbers with eight heights.

  >>> sparkline(np.array([1., 2., np.nan, 8.]))
  '▁▂ █'
  """
  x = np.asarray(values, float)[lines.spread(len(values), width)]
  known = x[np.isfinite(x)]
  if not known.size:
    return ''
  low, span = known.min(), max(np.ptp(known), 1e-30)
  return ''.join(_BARS[round(7 * (v - low) / span)] if math.isfinite(v) else ' '
                 for v in x)


def _parts(run):
  table = Table(box=None, pad_edge=False, header_style='dim')
  for name in ('part', 'step', 'loss', '', 'accuracy', 'B_S', 'steps/s'):
    table.add_column(name, justify='left' if name in ('part', '') else 'right',
                     overflow='fold')
  for part in run.parts:
    table.add_row(*map(Text, _row(part, run.name)))
  return table


def _row(part: Part, name: str) -> tuple[str, ...]:
  found = columns.of_part(part)
  of = f' of {part.steps:,}' if part.steps > part.step else ''
  loss = next((found[x] for x in _LOSSES if x in found), None)
  accuracy = found.get('accuracy')
  bound = next((x.value[np.isfinite(x.value)][-1]
                for x in quantities.bounds(found)), None)
  last = lambda x: '' if x is None else numbers.number(float(x.middle()[-1]))
  return (part.name or name, f'{part.step:,}{of}', last(loss),
          _course(loss), last(accuracy),
          '' if bound is None else numbers.number(float(bound)),
          numbers.number(timing.rate(part)))


def _course(loss):
  if loss is None:
    return ''
  values = loss.middle()
  return sparkline(np.log(values) if figures.is_log(values) else values)


def _claims(run):
  table = Table(box=None, pad_edge=False, header_style='dim')
  for name in ('', 'claim', 'here'):
    table.add_column(name)
  for claim in run.claims:
    word = claim['verdict']
    table.add_row(Text(verdicts.MARKS.get(word, '?'), _STYLES.get(word, '')),
                  Text(claim['text']), Text(verdicts.value(claim)))
  return table
