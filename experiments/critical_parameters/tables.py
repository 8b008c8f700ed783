"""The tables of `critical_parameters`: steps, critical numbers, and tuning."""

from experiments.common import intervals
from experiments.common.tables import Table, number, with_interval
from experiments.critical_parameters import analysis


def tables(config, reduced, summary) -> list[Table]:
  """Lay out what the studies that were chosen found."""
  del summary
  found = []
  if reduced.quadratic is not None:
    found += [_steps(config, reduced.quadratic, d) for d in config.dimensions]
  rows = _critical_rows(config, reduced)
  if rows:
    found.append(Table(
      f'What is critical, mean [95 % interval] of {config.num_seeds} runs',
      ('', 'M', 'delay that doubles the steps, times b',
       'batch that doubles the examples'), rows))
  if reduced.edges:
    found.append(Table(
      'Cells in which a run uses a learning rate at an end of the grid',
      ('study', 'at an end', 'cells'),
      [(name, str(count), str(total))
       for name, (count, total) in reduced.edges.items()]))
  return found


def _steps(config, grid, d):
  steps = grid['steps'].sel(dimension=d).mean('run', skipna=False)
  return Table(
    f'Least squares, M = {d + 1}: mean steps to an error of '
    f'{config.target:g}, by delay τ and batch b',
    ('', *(f'b = {b}' for b in config.batch_sizes)),
    [(f'τ = {tau}', *(number(float(x)) for x in steps.sel(staleness=tau)))
     for tau in config.stalenesses])


def _critical_rows(config, reduced):
  shown = lambda runs: with_interval(intervals.of_mean(runs))
  rows = []
  if reduced.quadratic is not None:
    for d in config.dimensions:
      found = analysis.critical(config, reduced.quadratic, d)
      rows.append((f'least squares, d = {d}', number(d + 1),
                   *map(shown, found)))
  if reduced.sparse is not None:
    for _, one in reduced.sparse.groupby('setting'):
      one = one.squeeze('setting')
      rows.append((
        f'sparse rows, d = {one["dimension"].item()}, '
        f'1/Δ = {1 / one["density"].item():g}',
        number(one['noise_ratio'].item()), shown(one['delay'].values), '–'))
  if reduced.network is not None:
    x, sizes = reduced.network.critical, config.network_batch_sizes
    rows += [
      (f'{config.model} on {config.dataset}, b = {sizes[0]}',
       f'{shown(x["tracked"])}, tracked', shown(x['delay']), shown(x['batch'])),
      (f'{config.model} on {config.dataset}, b = {sizes[1]}', '–',
       shown(x['second_delay']), '–')]
  return rows
