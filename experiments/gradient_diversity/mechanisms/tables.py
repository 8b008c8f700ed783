"""The tables of `--study=mechanisms`, for a terminal."""

import numpy as np

from experiments.gradient_diversity.mechanisms import analysis, arms


def table(config, summary) -> str:
  """Lay out the parts one below the other."""
  parts = (_bounds, _steps, _times, _wires)
  return '\n'.join(line for part in parts
                   for line in ('', *part(config, summary))) + '\n'


def _bounds(config, summary):
  off = np.abs([c['off'] for c in summary['bounds']])
  return [
    f'B_S of {config.measured_examples} examples, measured on batches of '
    f'{config.reference_batch_size}: {np.mean(off < 1.96):.0%} of {len(off)} '
    f'95 % intervals hold the formula; the farthest is {off.max():.1f} '
    'standard errors off']


def _steps(config, summary):
  lines = [
    f'steps to training accuracy, {config.num_workers} workers, '
    f'{config.num_seeds} seeds; rates tuned for each cell', '',
    f'{"":<18} {"target":>6} ' + ' '.join(
      f'{f"B={size}":>8}' for size in config.batch_sizes)]
  edges = {(c['mechanism'], c['strength'], c['target'], c['batch_size'])
           for c in summary['cells'] if c['at_edge']}
  for target in config.target_accuracies:
    for arm in analysis.arms(config):
      steps = analysis.find(summary['cells'], arm, target)
      mark = lambda b: '*' if (*arm, target, b) in edges else ' '
      lines.append(
        f'{arms.describe(*arm):<18} {target:>6.0%} ' + ' '.join(
          f'{steps[b].mean():>7.1f}{mark(b)}' if b in steps else f'{"-":>7} '
          for b in config.batch_sizes))
  return lines + ['', '*: at the first or the last rate of the grid; -: not '
                  'reached by all seeds']


def _times(config, summary):
  fits = summary['fitting_costs']
  if not fits:
    return [f'no time: the plain mean does not reach {summary["target"]:.0%}']
  lines = [
    f'time to {summary["target"]:.0%}, by the model steps × (communication + '
    f'batch/{config.num_workers}), over that of the plain mean,',
    f'and the best batch, with its share of resampled seeds; the plain mean\'s '
    f'is {summary["times"][0]["best_batch"]}', '',
    f'{"communication:":<18} ' + ' '.join(
      f'{cost:>24}' for cost in _ends(fits))]
  for arm in analysis.arms(config):
    rows = [row for row in summary['times']
            if (row['mechanism'], row['strength']) == arm]
    lines.append(f'{arms.describe(*arm):<18} ' + ' '.join(
      f'{_pm(row["share_of_plain"], ".2f"):>12} {_likely(row):>11}'
      for row in _ends(rows)))
  return lines


def _wires(config, summary):
  return [
    f'wires, {config.bits_workers} workers, {config.bits_seeds} seeds, '
    f'batch {config.batch_sizes[0]}', '',
    f'{"":<18} {"bits":>6} {"rate":>6} {"training loss":>17} '
    f'{"test accuracy":>15} {"beyond 32 bits":>17}',
    *(f'{row["label"]:<18} {row["bits"]:>6.2f} {row["learning_rate"]:>6g} '
      f'{_pm(row["loss"], ".4f"):>17} {_pm(row["test"], ".4f"):>15} '
      f'{_pm(row["beyond_float32"], "+.4f"):>17}' for row in summary['bits'])]


def _ends(values):
  """Take the first, the middle and the last."""
  return [values[0], analysis.middle(values), values[-1]]


def _likely(row):
  """Write the best batch, and how often it is that of resampled seeds."""
  size = row['best_batch']
  return '-' if size is None else (
    f'{size} ({row["best_batches"][str(size)]:.0%})')


def _pm(pair, form):
  mean, error = pair
  if mean is None:
    return '-'
  return format(mean, form) + (
    '' if error is None else f' ± {format(error, form.lstrip("+"))}')
