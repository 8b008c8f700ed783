"""The tables of `decentralized`: counts of successes, and what was measured."""

from experiments.common.tables import Table, number
from experiments.decentralized import analysis

COLUMNS = {'ratio': 'α_e/α', 'spread': 'σ_w²', 'across_batch': 'Δ_S',
           'across_spread': 'Δ_2'}


def tables(config, reduced, summary) -> list[Table]:
  """Lay out successes by arm and rate, then the measures, early and late."""
  cells = summary['cells']
  labels = {run.arm.name: run.arm.label for run in reduced.runs}
  groups = {}
  for cell in cells:
    key = cell['domain'], cell['batch_size'], cell['arm'] == 'lamb'
    groups.setdefault(key, []).append(cell)
  found = [_successes(config, labels, *key, group)
           for key, group in groups.items()]
  measured = [cell for cell in cells if 'early_ratio' in cell]
  return found + ([_measured(labels, measured)] if measured else [])


def _successes(config, labels, domain, size, is_lamb, cells):
  goal = (f'test accuracy above {config.target_accuracy:.0%}'
          if domain == 'images' else
          f'test loss below {config.target_loss:g} nats')
  rates = sorted({cell['learning_rate'] for cell in cells})
  at = {(cell['arm'], cell['learning_rate']): cell for cell in cells}
  names = dict.fromkeys(cell['arm'] for cell in cells)
  return Table(
    f'Runs that end with {goal} [95 % interval]: {domain}, batch {size}, '
    f'{config.steps_of(domain)} steps', ('', *(f'{rate:g}' for rate in rates)),
    [[labels[name], *(_share(at.get((name, rate))) for rate in rates)]
     for name in names])


def _share(cell):
  if cell is None:
    return ''
  low, high = cell['interval']
  return f'{cell["successes"]}/{cell["runs"]} [{low:.2f}, {high:.2f}]'


def _measured(labels, cells):
  def pair(cell, name):
    early, late = (number(cell[f'{when}_{name}'], digits=2)
                   for when in ('early', 'late'))
    return f'{early} → {late}'

  return Table(
    f'Medians in the first {analysis.EARLY:.0%} of the steps → the last '
    f'{analysis.LATE:.0%}', ('', 'batch', 'rate', *COLUMNS.values()),
    [[labels[cell['arm']], str(cell['batch_size']),
      f'{cell["learning_rate"]:g}', *(pair(cell, name) for name in COLUMNS)]
     for cell in cells])
