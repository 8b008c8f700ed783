"""What the records of `--study=mechanisms` say: the tables and three figures.

Reads records only, so that figures can be drawn again without training.
"""

import json
import pathlib

import numpy as np

from experiments.engine import records
from experiments.gradient_diversity.mechanisms import arms as mechanisms

# Of a step, in units of what one example's gradient costs one worker.
COMMUNICATION = tuple(2**k for k in range(2, 19))
# What the paper found the best batch of plain SGD to be, on its cluster.
PAPER_BEST_BATCH = 256


def load(config, part: str) -> dict[str, np.ndarray]:
  """Read a run: name -> [strength, rate, seed, record]; and 'step'."""
  rows = records.read(pathlib.Path(config.workdir) / part / 'metrics.jsonl')
  names = set.intersection(*(set(row) for row in rows)) - {'step'}
  rates = len(config.learning_rates)
  seeds = config.bits_seeds if part.startswith('wires') else config.num_seeds
  run = {name: np.array([row[name] for row in rows], float).T.reshape(
    -1, rates, seeds, len(rows)) for name in names}
  return run | {'step': np.array([row['step'] for row in rows])}


def steps_to(target: float, step: np.ndarray, accuracy: np.ndarray):
  """Count steps until an accuracy [..., record] reaches a target.

  Linear between two records; infinite where it is never reached.
  """
  reached = accuracy >= target
  first = np.argmax(reached, -1)
  at = lambda i: np.take_along_axis(accuracy, i[..., None], -1)[..., 0]
  before = np.maximum(first - 1, 0)
  rise = at(first) - at(before)
  share = np.where(rise > 0, (target - at(before)) / np.where(
    rise > 0, rise, 1), 0.)
  steps = step[before] + share * (step[first] - step[before])
  return np.where(reached.any(-1), steps, np.inf)


def rounds(config) -> list[dict]:
  """Count the steps of each cell, at the rate with the fewest."""
  cells = []
  for mechanism in mechanisms.mechanisms(config):
    for size in config.batch_sizes:
      run = load(config, f'{mechanism.name}/batch_{size:05d}')
      accuracy = np.nan_to_num(run['accuracy'])
      for target in config.target_accuracies:
        counts = steps_to(target, run['step'], accuracy)
        best = best_rates(counts)
        for i, strength in enumerate(mechanism.strengths):
          cells.append({
            'mechanism': mechanism.name, 'strength': strength,
            'batch_size': size, 'target': target,
            'learning_rate': config.learning_rates[best[i]],
            'at_edge': bool(best[i] in (0, len(config.learning_rates) - 1)),
            'steps': [_finite(x) for x in counts[i, best[i]]]})
  return cells


def best_rates(counts: np.ndarray) -> np.ndarray:
  """Choose a rate for counts [strength, rate, seed], infinite if not reached.

  The one that gets there for the most seeds; of equals, with fewest steps.
  """
  reached = np.isfinite(counts)
  mean = np.where(reached, counts, 0).sum(-1) / np.maximum(reached.sum(-1), 1)
  missing = (~reached).sum(-1)
  return np.lexsort((mean, missing), axis=-1)[:, 0]


def arms(config) -> list[tuple[str, float]]:
  """List (mechanism, strength), the plain mean first."""
  return [(m.name, s) for m in mechanisms.mechanisms(config)
          for s in m.strengths]


def find(cells, arm, target) -> dict[int, np.ndarray]:
  """Find the steps of an arm: batch size -> [seed]; where it got there."""
  found = {c['batch_size']: c['steps'] for c in cells
           if (c['mechanism'], c['strength']) == arm
           and c['target'] == target}
  return {size: np.array(steps) for size, steps in found.items()
          if None not in steps}


def times(config, cells, arm, target, cost) -> dict[int, np.ndarray]:
  """Model the time, steps × (communication + batch/workers): [seed]."""
  return {size: steps * (cost + size / config.num_workers)
          for size, steps in find(cells, arm, target).items()}


def best_batch(times_of_arm: dict[int, np.ndarray]) -> int | None:
  """Choose the batch of the least time."""
  return min(times_of_arm, key=lambda size: times_of_arm[size].mean(),
             default=None)


def fitting_costs(config, cells, target) -> list[int]:
  """List the costs at which the mean's best batch is that of the paper.

  What communication cost on its cluster, the paper does not say. Where no
  cost fits, those are listed that come nearest; none, where the mean does not
  reach the target.
  """
  plain = arms(config)[0]
  sizes = {cost: best_batch(times(config, cells, plain, target, cost))
           for cost in COMMUNICATION}
  if None in sizes.values():
    return []
  gap = {cost: abs(np.log2(size / PAPER_BEST_BATCH))
         for cost, size in sizes.items()}
  return [cost for cost in COMMUNICATION if gap[cost] == min(gap.values())]


def compare(config, cells, target, cost) -> list[dict]:
  """Compare the time of each arm, at its best batch, to the plain mean's.

  The shares of the best batches are those of resampled seeds; the errors do
  not tell that rate and batch are chosen on the seeds themselves, in all arms
  alike.
  """
  rows, plain = [], arms(config)[0]
  base = times(config, cells, plain, target, cost)
  for arm in arms(config):
    own = times(config, cells, arm, target, cost)
    size = best_batch(own)
    row = {'mechanism': arm[0], 'strength': arm[1], 'cost': cost,
           'best_batch': size, 'best_batches': _resampled(own),
           'share_of_plain': [None, None]}
    if own and base:
      with np.errstate(all='ignore'):  # of zero steps to a low target
        share = own[size] / base[best_batch(base)]
      row['share_of_plain'] = stats(share)
    rows.append(row)
  return rows


def _resampled(times_of_arm, draws=2000) -> dict[str, float]:
  """Resample the seeds: how often is each batch the best?"""
  if not times_of_arm:
    return {}
  table = np.stack(list(times_of_arm.values()))  # [size, seed]
  seeds = table.shape[1]
  picks = np.random.default_rng(0).integers(seeds, size=(draws, seeds))
  best = table[:, picks].mean(-1).argmin(0)
  return {str(size): float(np.mean(best == i))
          for i, size in enumerate(times_of_arm)}


def chosen_lanes(config, name: str) -> np.ndarray:
  """List the lanes of a wire at the rate of least training loss: [seed]."""
  loss = np.nan_to_num(
    load(config, f'wires/{name}')['loss'][0, :, :, -1], nan=np.inf)
  best = int(loss.mean(-1).argmin())
  return best * config.bits_seeds + np.arange(config.bits_seeds)


def bits(config) -> list[dict]:
  """Reduce the runs on each wire; differences are seed by seed."""
  tests = json.loads(
    (pathlib.Path(config.workdir) / 'test.json').read_text())
  rows, plain = [], np.array(tests['float32']['accuracy'])
  for arm in mechanisms.wires():
    accuracy = np.array(tests[arm.name]['accuracy'])
    lane = chosen_lanes(config, arm.name)[0] // config.bits_seeds
    run = load(config, f'wires/{arm.name}')
    rows.append({
      'wire': arm.name, 'label': arm.label, 'is_sent': arm.coded_bits is None,
      'bits': tests[arm.name]['bits'],
      'learning_rate': config.learning_rates[lane],
      'loss': stats(run['loss'][0, lane, :, -1]), 'test': stats(accuracy),
      'beyond_float32': stats(accuracy - plain)})
  return rows


def bounds(config) -> list[dict]:
  """Read what was measured: 1/B_S with its error, beside the formula's."""
  measured = json.loads(
    (pathlib.Path(config.workdir) / 'bounds.json').read_text())
  cells = []
  for cell in measured:
    signal, noise = (np.array(cell.pop(k)) for k in ('sq_norm', 'variance'))
    total = (signal + noise).mean()
    inverse = signal.mean() / total
    # To first order, the error of a ratio of means over the batches.
    error = np.std(signal - inverse * (signal + noise), ddof=1) / (
      np.sqrt(len(signal)) * total)
    cells.append(cell | {
      'inverse': float(inverse), 'error': float(error),
      'off': float((1 / cell['predicted'] - inverse) / error)})
  return cells


def report(config) -> dict:
  """Print the tables, write the summary and draw the figures."""
  from experiments.gradient_diversity.mechanisms import figures, tables
  workdir = pathlib.Path(config.workdir)
  summary = summarize(config)
  records.write_whole(workdir / 'summary.json', summary)
  print(tables.table(config, summary))
  for path in figures.draw_all(config, summary):
    print(f'figure: {path}')
  print(f'records: {workdir}/*/*/metrics.jsonl, {workdir}/*.json')
  return summary


def summarize(config) -> dict:
  """Reduce the records to what the tables and figures show."""
  cells = rounds(config)
  target = middle(config.target_accuracies)
  fits = fitting_costs(config, cells, target)
  return {
    'bounds': bounds(config), 'cells': cells, 'target': target,
    'fitting_costs': fits,
    'times': [row for cost in fits
              for row in compare(config, cells, target, cost)],
    'bits': bits(config)}


def middle(values):
  """Take the one in the middle."""
  return values[len(values) // 2]


def stats(x: np.ndarray) -> list:
  """Return mean and standard error over the seeds; None where unknown."""
  if not np.isfinite(x).all():
    return [None, None]
  error = x.std(ddof=1) / np.sqrt(len(x)) if len(x) > 1 else None
  return [float(x.mean()), None if error is None else float(error)]


def _finite(x):
  return float(x) if np.isfinite(x) else None
