"""What the records of `agreement_filtering` say: the table and three figures.

Reads records only, so that figures can be drawn again without training.
"""

import json
import pathlib

import numpy as np

from experiments.agreement_filtering import arms
from experiments.engine import records

FILTER = arms.FILTER


def load(config, arm: arms.Arm) -> dict[str, np.ndarray]:
  """Read an arm: name -> [noise, threshold, rate, seed, record, ...]."""
  rows = records.read(pathlib.Path(config.workdir) / arm.name / 'metrics.jsonl')
  names = set.intersection(*(set(row) for row in rows))
  shape = (len(config.noise_rates), len(arm.thresholds),
           len(config.learning_rates), config.num_seeds, len(rows))
  run = {}
  for name in names - {'step'}:
    x = np.moveaxis(np.array([row[name] for row in rows], float), 0, 1)
    run[name] = x.reshape(*shape, *x.shape[2:])
  run['step'] = np.array([row['step'] for row in rows])
  return run


def by_stage(cumulative: np.ndarray, axis: int = -1) -> np.ndarray:
  """Take the totals since the start apart, record by record."""
  return np.diff(cumulative, axis=axis)


def partner_sizes(config, arm: arms.Arm) -> np.ndarray:
  """Count what the filter let through: [lanes of `arm`, stages, k + 1].

  At the control's threshold, and at the same noise, rate and seed.
  """
  partner = find(config, FILTER)
  place = partner.thresholds.index(config.control_threshold)
  sizes = by_stage(load(config, partner)['sizes'][:, [place]], axis=4)
  return sizes.reshape(len(config.settings(arm)), *sizes.shape[4:])


def find(config, name: str) -> arms.Arm:
  """Find an arm by its name."""
  arm, = (arm for arm in config.arms() if arm.name == name)
  return arm


def chosen_rates(config, arm: arms.Arm) -> np.ndarray:
  """Choose the rate of best final validation accuracy: [noise, threshold].

  The mean over the seeds counts; of equals, the smaller rate.
  """
  return load(config, arm)['validation'][..., -1].mean(-1).argmax(-1)


def chosen_lanes(config, arm: arms.Arm) -> np.ndarray:
  """List the lanes at the rates chosen: [noise, threshold, seed]."""
  lanes = np.arange(len(config.settings(arm))).reshape(
    len(config.noise_rates), len(arm.thresholds),
    len(config.learning_rates), config.num_seeds)
  return at_chosen(config, arm, lanes)


def at_chosen(config, arm, values: np.ndarray) -> np.ndarray:
  """Pick the rates chosen out of [noise, threshold, rate, ...]."""
  places = chosen_rates(config, arm)
  places = places.reshape(*places.shape, *(1,) * (values.ndim - 2))
  return np.take_along_axis(values, places, 2)[:, :, 0]


def best_threshold(config, arm: arms.Arm) -> np.ndarray:
  """Choose the threshold of best validation accuracy too: [noise]."""
  final = load(config, arm)['validation'][..., -1].mean(-1)
  return final.max(-1).argmax(-1)


def report(config) -> dict:
  """Print the table, write the summary and draw the figures."""
  from experiments.agreement_filtering import figures
  workdir = pathlib.Path(config.workdir)
  summary = summarize(config)
  records.write_whole(workdir / 'summary.json', summary)
  print(table(config, summary))
  for path in figures.draw_all(config, summary):
    print(f'figure: {path}')
  print(f'records: {workdir}/*/metrics.jsonl, {workdir}/test.json, '
        f'{workdir}/summary.json')
  return summary


def summarize(config) -> dict:
  """Reduce the records to a cell for each arm, noise and threshold."""
  tests = json.loads(
    (pathlib.Path(config.workdir) / 'test.json').read_text())
  plain = np.array(tests['mean'])[:, 0]
  cells, best = [], {}
  for arm in config.arms():
    run, test = load(config, arm), np.array(tests[arm.name])
    pick = lambda x: at_chosen(config, arm, x)
    rates = chosen_rates(config, arm)
    sizes = pick(run['sizes'][..., -1, :])  # [noise, threshold, seed, k + 1]
    through = sizes @ np.arange(sizes.shape[-1]) / config.num_workers
    validation = pick(run['validation'][..., -1])
    peak = pick(run['validation'].max(-1))
    memorized = pick(run['memorized'][..., -1])
    largest = run['validation'][:, :, -1, :, -1]
    for i, noise in enumerate(config.noise_rates):
      for j, tau in enumerate(arm.thresholds):
        cells.append({
          'arm': arm.name, 'noise': noise, 'threshold': tau,
          'learning_rate': config.learning_rates[rates[i, j]],
          'validation': stats(validation[i, j]),
          'best_validation_on_the_way': stats(peak[i, j]),
          'validation_at_largest_rate': stats(largest[i, j]),
          'memorized_at_largest_rate': stats(
            run['memorized'][i, j, -1, :, -1]),
          'test': stats(test[i, j]),
          'test_beyond_mean': stats(test[i, j] - plain[i]),
          'skipped': stats(sizes[i, j, :, 0] / config.steps),
          'let_through': stats(through[i, j] / config.steps),
          'memorized': stats(memorized[i, j])})
    best[arm.name] = [arm.thresholds[j] for j in best_threshold(config, arm)]
  return {'cells': cells, 'best_threshold': best,
          'noise_rates': list(config.noise_rates)}


def stats(x: np.ndarray) -> list:
  """Return mean and standard error over the seeds; None where unknown."""
  if not np.isfinite(x).all():
    return [None, None]
  error = x.std(ddof=1) / np.sqrt(len(x)) if len(x) > 1 else None
  return [float(x.mean()), None if error is None else float(error)]


def find_cells(summary, arm: str, threshold: float | None = None) -> list:
  """Find the cells of an arm by rising noise; by default, at its best τ."""
  found = []
  for noise, best in zip(summary['noise_rates'],
                         summary['best_threshold'][arm]):
    wanted = arm, noise, best if threshold is None else threshold
    found += [cell for cell in summary['cells'] if wanted == (
      cell['arm'], cell['noise'], cell['threshold'])]
  return found


def table(config, summary) -> str:
  """Lay the cells out for a terminal."""
  noises = config.noise_rates
  head = ' '.join(f'{f"{noise:.0%} wrong":>14}' for noise in noises)
  every = [(arm, tau) for arm in config.arms() for tau in arm.thresholds]
  tuned = [(arm, None) for arm in config.arms() if arm.name != 'mean']
  skipping = [(arm, tau) for arm, tau in every
              if len(arm.thresholds) > 1 or arm.partner]
  lines = [
    '', f'{config.dataset}, {config.model}, {config.num_workers} micro-batches '
    f'of {config.per_class} a class, {config.steps} steps, {config.num_seeds} '
    'seeds (mean ± standard error)']
  for title, quantity, rows in (
      ('test accuracy, %', 'test', every),
      ('beyond the mean, %', 'test_beyond_mean', tuned),
      ('validation, best on the way', 'best_validation_on_the_way', every),
      (f'validation, rate {config.learning_rates[-1]:g}',
       'validation_at_largest_rate', every),
      ('  wrong labels memorized, %', 'memorized_at_largest_rate', every),
      ('steps skipped, %', 'skipped', skipping)):
    lines += ['', f'{title:<27} {head}']
    lines += [_row(summary, arm, tau, quantity) for arm, tau in rows]
  return '\n'.join(lines) + '\n'


def _row(summary, arm, tau, quantity):
  cells = find_cells(summary, arm.name, tau)
  which = '' if len(arm.thresholds) < 2 else (
    ' τ tuned' if tau is None else f' τ={tau:g}')
  return f'{arm.name + which:<27} ' + ' '.join(
    f'{percent(cell[quantity]):>14}' for cell in cells)


def percent(pair) -> str:
  """Write a share and its error in percent."""
  mean, error = pair
  if mean is None:
    return 'unknown'
  return f'{100 * mean:.1f}' + ('' if error is None else f' ± {100*error:.1f}')
