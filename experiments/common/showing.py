"""What a study shows at its end: files, tables, figures and claims."""

import functools
import pathlib
import time
from typing import Any

from experiments.common import (
  beside,
  claims as claims_lib,
  drawing,
  tables,
)
from experiments.engine import records


def show(study: Any, config: Any, outcome: Any, began: float) -> None:
  """Write summary, claims and figures; print tables and the claims.

  Args:
    study: The paper's.
    config: Its flags.
    outcome: What it found.
    began: `time.monotonic()` at the start.
  """
  figures = drawing.Figures(study, config, outcome)
  drawn = beside.each(
    [functools.partial(figures.draw, name) for name in figures.due],
    functools.partial(_write, study, config, outcome))
  for line in figures.keep(drawn):
    print(line)
  if outcome.claims:
    print(f'\n{tables.of_claims(outcome.claims, study.title).text()}')
  workdir = pathlib.Path(config.workdir)
  print(f'\nrecords: {workdir}/claims.json, {workdir}/summary.json')
  figures.write_page()
  print(f'{time.monotonic() - began:.1f} s in all')


def _write(study, config, outcome):
  """Write summary and claims; print the tables."""
  workdir = pathlib.Path(config.workdir)
  summary = study.summarize(config, outcome.reduced)
  records.write_whole(workdir / 'summary.json', summary)
  story = {name: getattr(study, name) for name in (
    'name', 'title', 'link', 'command', 'sentence', 'setup')}
  story |= {'pictures': dict(study.pictures), 'num_seeds': config.num_seeds,
            'roundings': config.roundings}
  claims_lib.write(workdir / 'claims.json', story, outcome.claims)
  for table in study.tables(config, outcome.reduced, summary):
    print(f'\n{table.text()}')
