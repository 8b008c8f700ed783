"""The tables of `--study=mechanisms`."""

from experiments.common import intervals, tuning
from experiments.common.tables import (
  Table,
  number,
  plus_minus,
  with_interval,
)
from experiments.gradient_diversity.mechanisms import arms


def tables(config, reduced, summary) -> list[Table]:
  """Lay out B_S, steps, modeled times and wires."""
  return [_bounds(config, reduced), _steps(config, reduced),
          *_times(config, summary), _wires(config, summary)]


def _bounds(config, reduced):
  bounds = reduced.bounds.transpose('cell', 'seed')
  rows = []
  for i, (arm, draws) in enumerate(arms.list_cells(config)):
    at = bounds.isel(cell=i)
    ratio = intervals.of_mean((at['inverse'] * at['predicted']).values)
    rows.append((arm.label, draws, number(float(at['predicted'].mean())),
                 number(float(1 / at['inverse'].mean())),
                 with_interval(ratio)))
  return Table(
    f'B_S of {config.measured_examples} examples and {config.num_seeds} '
    'networks; 1/B_S over the formula, with its 95 % interval over seeds',
    ('', 'draws', 'formula', 'measured', 'over the formula'), rows)


def _steps(config, reduced):
  rows = []
  for target in config.target_accuracies:
    for arm in arms.list_arms(config):
      at = reduced.rounds.sel(arm=arm.label, target=target)
      edge = tuning.is_at_edge(
        at['choice'].values, len(config.learning_rates))
      mean = at['steps'].mean('seed', skipna=False).values
      rows.append((arm.label, f'{target:.0%}', *(
        f'{x:.1f}{"*" * bool(is_edge)}' if x < float('inf') else '–'
        for x, is_edge in zip(mean, edge))))
  return Table(
    f'Steps to a training accuracy, {config.num_workers} workers, mean of '
    f'{config.num_seeds} seeds; rates tuned for each cell (*: at an end of the '
    'grid; –: not reached by all seeds)',
    ('', 'accuracy', *(f'B = {size}' for size in config.batch_sizes)), rows)


def _times(config, summary):
  prices = summary['fitting_costs']
  if not prices:
    return []
  shown = sorted({prices[0], prices[len(prices) // 2], prices[-1]})
  rows = []
  for arm in arms.list_arms(config):
    wanted = arm.mechanism.name, arm.strength
    found = {row['cost']: row for row in summary['times']
             if (row['mechanism'], row['strength']) == wanted}
    rows.append((arm.label, *(
      cell for price in shown for cell in (
        plus_minus(*found[price]['share_of_plain']), _likely(found[price])))))
  return [Table(
    f'Time to {config.target:.0%} over that of the plain mean, modeled as '
    f'steps × (price + B/{config.num_workers}), ± standard error; and the best '
    'B, with its share of resampled seeds',
    ('', *(name for price in shown
           for name in (f'price {price}', 'best B'))), rows)]


def _likely(row):
  """Write the best batch size, and how often resampled seeds have it."""
  size = row['best_batch']
  return '–' if size is None else (
    f'{size} ({row["best_batches"][str(size)]:.0%})')


def _wires(config, summary):
  return Table(
    f'Wires: {config.bits_workers} workers, {config.bits_seeds} seeds, batch '
    f'size {config.batch_sizes[0]}, ± standard error',
    ('', 'bits', 'rate', 'training loss', 'test accuracy (%)',
     'beyond float32 (points)'),
    [(row['label'], f'{row["bits"]:.2f}', f'{row["learning_rate"]:g}',
      plus_minus(*row['loss'], '.4f'),
      plus_minus(*row['test'], '.2f', 100),
      plus_minus(*row['beyond_float32'], '.2f', 100))
     for row in summary['bits']])
