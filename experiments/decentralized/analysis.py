"""What the records of `decentralized` say: counts, series, and the summary.

Reads records only, so that figures can be drawn again without training.
"""

import pathlib

import numpy as np

from experiments.decentralized import arms
from experiments.engine import records

MEASURES = 'ratio', 'spread', 'across', 'across_batch', 'across_spread'
EARLY, LATE = 0.1, 0.2  # shares of the steps: the first 30, the last 60 of 300
_Z = 1.959964  # of a normal, for 95 %


def load(config, arm) -> dict[str, np.ndarray]:
  """Read an arm: name -> [rate, seed, record]; series [rate, seed, look].

  Beside them 'step' [record] and 'look' [look], the steps of each.
  """
  first, *rows = records.read(
    pathlib.Path(config.workdir) / arm.part / 'metrics.jsonl')
  shape = len(arm.learning_rates), arm.num_seeds
  run = {}
  for name in first.keys() - {'step'}:
    x = np.moveaxis(np.array([row[name] for row in rows], float), 0, 1)
    run[name] = x.reshape(*shape, -1)
  run['step'] = np.array([row['step'] for row in rows])
  run['look'] = np.arange(
    0, config.steps_of(arm.domain), config.measure_every)
  return run


def successes(config, arm) -> np.ndarray:
  """Tell which runs ended well: bool [rate, seed]; a lost one did not."""
  run = load(config, arm)
  if arm.domain == 'text':
    return run['loss'][..., -1] < config.target_loss
  return run['accuracy'][..., -1] > config.target_accuracy


def find(config, name: str, domain: str = 'images', size: int | None = None):
  """Find an arm; by default, at the first batch size of its domain."""
  return next(arm for arm in arms.list_arms(config)
              if (arm.name, arm.domain) == (name, domain)
              and size in (None, arm.batch_size))


def imposed_ratio(config, arm) -> np.ndarray:
  """Read off DPSGD what to impose on its control: [lanes, steps].

  α_e/α at the same rate, the median over the seeds (where a gradient vanishes,
  a ratio may be anything, and one seed would decide a mean), averaged over the
  looks within half of --imposed_window steps, and linear between two looks.
  """
  run = load(config, find(config, main_arm(config), size=arm.batch_size))
  steps, rows = np.arange(config.steps), []
  for ratio in run['ratio']:
    ratio = np.array([median(look) for look in ratio.T])
    ratio = np.where(np.isfinite(ratio), ratio, 1)
    smooth = [ratio[abs(run['look'] - at) <= config.imposed_window / 2].mean()
              for at in run['look']]
    rows.append(np.interp(steps, run['look'], smooth))
  return np.repeat(np.maximum(rows, 0), arm.num_seeds, 0)


def main_arm(config) -> str:
  """Name DPSGD on the topology to study first."""
  return f'dpsgd_{config.topologies[0]}'


def early(config, arm, name: str) -> np.ndarray:
  """Take the looks of the first steps: [rate, seed, look]."""
  series = load(config, arm)[name]
  return series[..., :max(round(EARLY * series.shape[-1]), 1)]


def late(config, arm, name: str) -> np.ndarray:
  """Take the looks of the last steps."""
  series = load(config, arm)[name]
  return series[..., -max(round(LATE * series.shape[-1]), 1):]


def wilson(count: int, total: int) -> list[float]:
  """Compute the interval of Wilson, of 95 %, for a share.

  >>> [round(x, 3) for x in wilson(9, 12)]
  [0.468, 0.911]

  Wilson, `Probable Inference
  <https://doi.org/10.1080/01621459.1927.10502953>`_, 1927.
  """
  center = (count + _Z**2 / 2) / (total + _Z**2)
  half = _Z / (total + _Z**2) * np.sqrt(
    count * (total - count) / total + _Z**2 / 4)
  return [float(max(center - half, 0)), float(min(center + half, 1))]


def resampled(statistic, *samples: np.ndarray, draws: int = 1000) -> list:
  """Bootstrap the seeds, the first axis, jointly: [value, low, high].

  Of 95 %, by percentiles; NaN where it is unknown.
  """
  rng = np.random.default_rng(0)
  count = len(samples[0])
  values = np.array([statistic(*(x[picks] for x in samples))
                     for picks in rng.integers(count, size=(draws, count))])
  values = values[np.isfinite(values)]
  low, high = (np.percentile(values, (2.5, 97.5)) if values.size
               else (np.nan, np.nan))
  return [float(statistic(*samples)), float(low), float(high)]


def median(x: np.ndarray) -> float:
  """Take the median of what is finite; NaN of nothing."""
  x = x[np.isfinite(x)]
  return float(np.median(x)) if x.size else float('nan')


def summarize(config) -> dict:
  """Reduce the records to a cell for each arm and rate, and test the claims."""
  from experiments.decentralized import claims
  cells = []
  for arm in arms.list_arms(config):
    run, good = load(config, arm), successes(config, arm)
    for i, rate in enumerate(arm.learning_rates):
      count = int(good[i].sum())
      cells.append({
        'arm': arm.name, 'domain': arm.domain, 'batch_size': arm.batch_size,
        'learning_rate': rate, 'successes': count, 'runs': arm.num_seeds,
        'interval': wilson(count, arm.num_seeds),
        'accuracy': _known(run['accuracy'][i, :, -1]),
        'loss': _known(run['loss'][i, :, -1]),
        **({f'{when.__name__}_{name}': _known(when(config, arm, name)[i])
            for name in MEASURES for when in (early, late)}
           if arm.is_measured else {})})
  return {'cells': cells, 'claims': claims.test(config)}


def report(config) -> dict:
  """Print the tables, write the summary and draw the figures."""
  from experiments.decentralized import figures, tables
  workdir = pathlib.Path(config.workdir)
  summary = summarize(config)
  records.write_whole(workdir / 'summary.json', summary)
  print(tables.table(config, summary))
  for path in figures.draw_all(config, summary):
    print(f'figure: {path}')
  print(f'records: {workdir}/*/*/*/metrics.jsonl, {workdir}/summary.json')
  return summary


def _known(x):
  value = median(x)
  return value if np.isfinite(value) else None
