"""Chooses rates and thresholds, and reduces the runs to what is shown.

The rate of each arm, threshold and noise is the one of best final validation
accuracy, in the mean over the seeds; of equals, the smaller. Statistics are
over the seeds, and arms are compared seed by seed.
"""

import dataclasses

import numpy as np
import xarray as xr

from experiments.agreement_filtering.arms import list_arms
from experiments.common import results


@dataclasses.dataclass(frozen=True)
class Reduced:
  """What claims, tables and figures show.

  Attributes:
    runs: By arm, all lanes: [noise, threshold, rate, seed, step].
    tuned: By arm, at the rates chosen: [noise, threshold, seed, step].
    best: By arm, the index [noise] of the threshold of best validation
      accuracy.
  """

  runs: dict[str, xr.Dataset]
  tuned: dict[str, xr.Dataset]
  best: dict[str, xr.DataArray]

  def test_at_best(self, arm: str) -> xr.DataArray:
    """Return test accuracies at the rates and thresholds chosen: [noise, seed].
    """
    return self.tuned[arm]['test'].isel(
      threshold=self.best[arm]).drop_vars('threshold')

  def at_one_rate(self, arm: str, threshold: float) -> xr.Dataset:
    """Return an arm at the largest rate: [noise, seed, step].

    At the given threshold where the arm has several.
    """
    run = self.runs[arm].isel(rate=-1)
    return (run.isel(threshold=0, drop=True) if run.sizes['threshold'] == 1
            else run.sel(threshold=threshold, drop=True))


def final(run: xr.Dataset, name: str = 'validation') -> xr.DataArray:
  """Take the last record."""
  return run[name].isel(step=-1, drop=True)


def reduce(config, done) -> Reduced:
  """Choose rates and thresholds on the validation set.

  A lane that was lost, whose accuracy is not a number, is the worst of all.
  """
  del config
  scores = {name: final(run).mean('seed', skipna=False).fillna(-np.inf)
            for name, run in done.items()}
  return Reduced(
    dict(done),
    {name: run.isel(rate=scores[name].argmax('rate'))
     for name, run in done.items()},
    {name: score.max('rate').argmax('threshold')
     for name, score in scores.items()})


def let_through(run: xr.Dataset, threshold: float) -> xr.DataArray:
  """Count how often the filter let 0, 1 ... k gradients through, by stage.

  Returns [noise, rate, seed, stage, count], at the threshold of the controls.
  """
  totals = run['sizes'].sel(threshold=threshold)
  return totals.diff('step').rename(step='stage')


def distance(config, run: xr.Dataset) -> xr.DataArray:
  """Average the cosine distance of micro-gradients between two records."""
  return 1 - run['cosine'].diff('step') / config.every


def summarize(config, reduced: Reduced) -> dict:
  """Reduce the runs to a cell for each arm, noise and threshold."""
  cells = []
  for arm in list_arms(config):
    run, tuned = reduced.runs[arm.name], reduced.tuned[arm.name]
    sizes = final(tuned, 'sizes')  # [noise, threshold, seed, count]
    counts = xr.DataArray(np.arange(sizes.sizes['count']), dims='count')
    shown = {
      'validation': final(tuned),
      'best_validation_on_the_way': tuned['validation'].max('step'),
      'validation_at_largest_rate': final(run).isel(rate=-1),
      'memorized_at_largest_rate': final(run, 'memorized').isel(rate=-1),
      'test': tuned['test'],
      'test_beyond_mean': tuned['test'] - reduced.tuned['mean']['test'].isel(
        threshold=0, drop=True),
      'skipped': sizes.isel(count=0) / config.steps,
      'let_through': sizes @ counts / config.num_workers / config.steps,
      'memorized': final(tuned, 'memorized')}
    shown = {name: x.transpose('noise', 'threshold', 'seed').values
             for name, x in shown.items()}
    rates = tuned['rate'].transpose('noise', 'threshold').values
    for i, noise in enumerate(config.noise_rates):
      for j, tau in enumerate(arm.thresholds):
        cells.append({
          'arm': arm.name, 'noise': noise, 'threshold': tau,
          'learning_rate': float(rates[i, j]), **{
            name: results.mean_and_error(x[i, j])
            for name, x in shown.items()}})
  best = {arm.name: [arm.thresholds[int(j)] for j in reduced.best[arm.name]]
          for arm in list_arms(config)}
  return {'cells': cells, 'best_threshold': best,
          'noise_rates': list(config.noise_rates)}


def find_cells(summary, arm: str, threshold: float | None = None) -> list:
  """Find the cells of an arm by rising noise; by default, at its best τ."""
  found = []
  for noise, best in zip(summary['noise_rates'],
                         summary['best_threshold'][arm]):
    wanted = arm, noise, best if threshold is None else threshold
    found += [cell for cell in summary['cells'] if wanted == (
      cell['arm'], cell['noise'], cell['threshold'])]
  return found
