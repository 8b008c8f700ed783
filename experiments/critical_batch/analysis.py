"""Reduces the runs of `critical_batch` to batch sizes, measured and predicted.

All losses are of the same training examples, smoothed along a run by an average
that halves the weight of the past at each record.
"""

import math

import numpy as np
import xarray as xr

from experiments.common import intervals, tables
from experiments.critical_batch.config import Setting

ARMS = ('bound', 'predicted', 'measured')  # what the ramps follow
TRACKED = ('signal', 'signal_low', 'signal_high', 'window', 'at_least',
           'until_known')
LEAST_SIGNAL = 1e-4  # 1/B_S where the moments say less than that


def smooth(loss: xr.DataArray) -> xr.DataArray:
  """Return smoothed log losses; a run that was lost counts as not begun."""
  loss = loss.transpose('step', ...)
  x = loss.where(np.isfinite, loss.isel(step=0, drop=True)).values
  found = [x[0]]
  for value in x[1:]:
    found.append((found[-1] + value) / 2)
  # Zeros, as parts are planned, have a logarithm, too.
  logs = loss.copy(data=np.log(np.maximum(found, 1e-30))).drop_vars('step')
  return logs.rename(step='record')


def branches(config, domain: str, done) -> xr.Dataset:
  """Collect the branches: log losses, and what was tracked at their points."""
  factors = list(config.factors)
  log_loss = xr.concat(
    [smooth(done[f'{domain}_branch_{factor}']['loss']) for factor in factors],
    'factor').assign_coords(factor=factors)
  trunk = xr.concat(
    [done[f'{domain}_trunk_{i}'][list(TRACKED)].isel(step=-1, drop=True)
     for i in range(len(config.points))], 'point')
  return trunk.assign_coords(point=list(config.points)).assign(
    log_loss=log_loss.transpose('seed', 'point', 'factor', 'record'))


def crossing(sizes, excess, tolerance: float) -> float:
  """Find the largest batch size whose excess [sizes] is within a tolerance.

  Between two sizes both logarithms are taken to be linear; beyond the last it
  is infinite, and the first where no size is within.

  >>> round(crossing((16, 32, 64), (0.0, 0.1, 0.3), 0.2), 1)
  45.3
  """
  within = np.flatnonzero(np.asarray(excess) <= tolerance)
  if not within.size:
    return float(sizes[0])
  at = within[-1]
  if at == len(sizes) - 1:
    return math.inf
  share = (tolerance - excess[at]) / (excess[at + 1] - excess[at])
  return float(sizes[at] * (sizes[at + 1] / sizes[at]) ** share)


def bound(signals: np.ndarray) -> float:
  """Return B_S of all runs: 1 over the mean of 1/B_S [seed]."""
  return 1 / max(float(np.mean(signals)), LEAST_SIGNAL)


def measured(setting: Setting, log_loss: np.ndarray) -> float:
  """Measure the critical batch size of a point [seed, factor, record]."""
  ends = log_loss[..., -1].mean(0)
  return crossing(setting.sizes, ends - ends[0], setting.slack)


def predicted(setting: Setting, log_loss: np.ndarray, signals: np.ndarray
              ) -> float:
  """Predict that number from B_S and the loss of the small batch alone.

  With ρ = B_S − 1, a batch B makes (B₀ + ρ)/(B + ρ) of the progress of B₀ on as
  many examples. So B is within the tolerance where B₀ was after that share s of
  its branch: B = B₀/s + ρ (1 − s)/s.
  """
  loss = log_loss[:, 0].mean(0)
  above = loss - loss[-1] - setting.slack
  at = int(np.argmax(above <= 0))
  if not at:  # from the start; or nothing is known
    return math.inf if above[0] <= 0 else math.nan
  share = at - above[at] / (above[at] - above[at - 1])
  share /= len(loss) - 1
  return setting.batch_size / share + (bound(signals) - 1) * (1 - share) / share


STATISTICS = {
  'bound': lambda setting, loss, signals: bound(signals),
  'predicted': predicted,
  'measured': lambda setting, loss, signals: measured(setting, loss)}


def of_points(setting: Setting, found: xr.Dataset
              ) -> dict[str, list[intervals.Interval]]:
  """Find the batch sizes of `ARMS` at each point, with their intervals."""
  return {arm: [intervals.resampled(
    lambda *runs, arm=arm: STATISTICS[arm](setting, *runs), *at)
    for at in _points(found)] for arm in ARMS}


def _points(found) -> list[tuple[np.ndarray, np.ndarray]]:
  """Return the losses [seed, factor, record] and signals [seed] of each point.
  """
  return [(at['log_loss'].values, at['signal'].values) for at in (
    found.sel(point=point) for point in found['point'].values)]


def sizes_of(found: xr.Dataset) -> dict[str, list[intervals.Interval]]:
  """Return what `of_points` found, from the reduced results."""
  return {arm: [intervals.Interval(*x) for x in found['size'].sel(
    arm=arm).values.tolist()] for arm in ARMS}


def plans(setting: Setting, found: xr.Dataset) -> dict[str, tuple[int, ...]]:
  """Plan the ramps: at each point the largest factor that is not too large."""
  fits = lambda size: max(
    [factor for factor in setting.factors
     if factor * setting.batch_size <= size], default=1)
  return {arm: tuple(fits(STATISTICS[arm](setting, *at))
                     for at in _points(found)) for arm in ARMS}


def name_of_advice(domain: str) -> str:
  """Name the part of what `gradiv.advise` says."""
  return f'{domain}_advice'


def name_of_ramp(factors: tuple[int, ...]) -> str:
  """Name the part of a ramp by its factors so far."""
  return f'ramp_{"_".join(map(str, factors))}'


def reduce(config, done) -> dict[str, xr.Dataset]:
  """Collect, by domain, the branches and the ends of whole runs and ramps."""
  return {domain: _reduce(config, domain, done) for domain in config.domains}


def _reduce(config, domain, done):
  found = branches(config, domain, done)
  end = lambda name: smooth(done[f'{domain}_{name}']['loss']).isel(record=-1)
  small = found['log_loss'].isel(point=-1, record=-1, factor=0, drop=True)
  fixed = xr.concat(
    [small, *(end(f'fixed_{factor}') for factor in config.factors[1:])],
    'factor')
  setting = config.setting(domain)
  chosen, sizes = plans(setting, found), of_points(setting, found)
  ramp = xr.concat(
    [end(name_of_ramp(chosen[arm])) for arm in ARMS], 'arm')
  lengths = np.diff((*config.points, config.steps))
  steps = [config.points[0] + sum(lengths / chosen[arm]) for arm in ARMS]
  return found.assign(
    fixed=fixed.transpose('seed', 'factor'),
    ramp=ramp.transpose('seed', 'arm'),
    ramp_factors=(('arm', 'point'), [chosen[arm] for arm in ARMS]),
    ramp_steps=('arm', steps),
    size=(('arm', 'point', 'end'), [sizes[arm] for arm in ARMS]),
    advice=done[name_of_advice(domain)]['advice']).assign_coords(
      arm=list(ARMS))


def steps_saved(setting: Setting, fixed: np.ndarray, ramp: np.ndarray,
                share: float) -> float:
  """Compare a ramp with the fixed batch that ends at its loss.

  Returns the ramp's steps over those of the largest fixed batch that reaches
  its loss on as many examples; of the smallest, where none does.

  Args:
    setting: The flags.
    fixed: The last log losses of whole runs [seed, factor].
    ramp: Those of the ramp [seed].
    share: Of the steps of the smallest batch that the ramp takes.
  """
  size = crossing(setting.sizes, fixed.mean(0), ramp.mean())
  return share * min(size, setting.sizes[-1]) / setting.batch_size


def table(setting: Setting, found: xr.Dataset) -> tables.Table:
  """Lay out the batch sizes at each point."""
  sizes = sizes_of(found)
  rows = [(f'{point:,}', f'{point * setting.batch_size:,}',
           *(tables.with_interval(sizes[arm][i]) for arm in ARMS))
          for i, point in enumerate(found['point'].values)]
  return tables.Table(
    f'{setting.domain}: critical batch size',
    ('step', 'examples seen', 'B_S', 'predicted', 'measured'), rows)


def advice_table(setting: Setting, found: xr.Dataset) -> tables.Table:
  """Say at each point what the first run of the trunk knew."""
  return tables.Table(
    f'{setting.domain}: what gradiv.advise says, first run',
    ('step', 'advice'), [
      (f'{point:,}', str(said))
      for point, said in zip(found['point'].values, found['advice'].values)],
    is_text=True)
