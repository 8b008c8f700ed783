"""What a study shows at its end: files, tables, figures and claims."""

import pathlib
from typing import Any

from experiments import report
from experiments.common import claims as claims_lib, plots, tables
from experiments.engine import records


def show(study: Any, config: Any, outcome: Any) -> None:
  """Write summary, claims and figures; print tables and the claims."""
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
  draw = dict(study.figures)
  if outcome.claims:
    draw['claims'] = lambda *args: plots.forest(args[-1])
  for name, make in draw.items():
    figure = make(config, outcome.reduced, outcome.claims)
    if figure is not None:
      print(f'figure: {plots.save(figure, workdir / f"{name}.png")}')
  if outcome.claims:
    print(f'\n{tables.of_claims(outcome.claims, study.title).text()}')
  print(f'\nrecords: {workdir}/claims.json, {workdir}/summary.json')
  report.write_at_end(workdir)


def last_value(result: Any) -> str:
  """Say in words what a part came to: its best final accuracy, or loss."""
  names = [name for name in getattr(result, 'data_vars', ())
           if set(result[name].dims) <= {*result.coords}]
  for words, best in ((('test', 'accuracy', 'validation'), 'max'),
                      (('loss',), 'min')):
    for name in (name for word in words for name in names if word in name):
      last = result[name]
      last = last.isel(step=-1) if 'step' in last.dims else last
      return f'best {name} {float(getattr(last, best)()):.3g}'
  return ''
