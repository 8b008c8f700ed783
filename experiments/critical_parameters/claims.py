"""The claims of `critical_parameters`, each with its law and allowed range.

We allow a slope of 1 ± 0.15, because a law that is right up to a factor of two
over two decades can hardly have another slope; a factor of 3 where the law is
one of orders of magnitude; and 25 % for the exact theory of least squares,
which describes the decay but not the first τ steps.
"""

import math

import numpy as np
import xarray as xr

from experiments.common import intervals
from experiments.common.claims import Claim
from experiments.critical_parameters import analysis

SLOPE, FACTOR, EXACT = (0.85, 1.15), (1 / 3, 3.), (0.8, 1.25)
POSITIVE = (0., math.inf)
# Below this many steps a law of proportion says nothing.
LEAST_SLOWNESS = 4.
PAPER = 'abstract'
EXTREMES = (('least', np.argmin), ('largest', np.argmax))


def claims(config, reduced) -> list[Claim]:
  """Judge each claim of the studies that were chosen."""
  judges = {'quadratic': quadratic, 'noise': noise, 'sparse': sparse,
            'network': network, 'rates': rates}
  return [claim for name, judge in judges.items()
          if (found := getattr(reduced, name)) is not None
          for claim in judge(config, found)]


def make(key: str, text: str, how: str, runs: np.ndarray,
         allowed: tuple[float, float], *, log: bool = False,
         source: str = 'ours', note: str = '') -> Claim:
  """Make the claim that a quantity [run] lies in a range.

  With `log`, its geometric mean.
  """
  return Claim(key, text, how, intervals.of_mean(runs, log=log), allowed,
               source=source, runs=len(runs), note=note)


def collapse(study: str, data: str, law: str, grid: xr.Dataset,
             others: dict[str, tuple[str, str, xr.DataArray]]) -> list[Claim]:
  """Claim a slope of one on the law, and that no other law fits half as well.

  Args:
    study: Prefix of the keys.
    data: What was trained on, as a text.
    law: As a text.
    grid: 'steps' and 'slowness', the value of the law.
    others: By key, what else might explain the steps: words, a formula, and
      its value in every cell.
  """
  flat = lambda x: xr.broadcast(x, grid['slowness'])[0].transpose(
    *grid['slowness'].dims).values.ravel()
  slowness = flat(grid['slowness'])
  kept = slowness >= LEAST_SLOWNESS
  y = np.log(grid['steps'].values.reshape(len(slowness), -1)[kept])
  slope, miss = analysis.fit(np.log(slowness[kept]), y)
  miss_of = lambda other: analysis.fit(np.log(flat(other)[kept]), y)[1]
  return [make(
    f'{study}_collapse', f'{data}: steps are proportional to {law}',
    f'slope of log steps on log({law}), where the latter is at least '
    f'{LEAST_SLOWNESS:g}', slope, SLOPE)] + [make(
      f'{study}_not_{key}', f'{data}: {words} does not explain the steps',
      f'error of a line on log({formula}), over that on log({law})',
      miss_of(other) / miss, (2, math.inf), log=True)
      for key, (words, formula, other) in others.items()]


def quadratic(config, grid) -> list[Claim]:
  """Judge the grid of batches and delays on least squares."""
  d, b, tau = grid['dimension'], grid['batch_size'], grid['staleness']
  data = 'least squares'
  found = collapse('quadratic', data, 'τ + 1 + M/b', grid, {
    'batch': ('the batch alone', '1 + M/b', 1 + (d + 1) / b),
    'delay': ('the delay alone', 'τ + 1', tau + 1),
    'examples': ('the number of examples in work alone', 'b (τ + 1)',
                 b * (tau + 1))})
  ratios = (grid['steps'] / grid['exact']).stack(
    cell=grid['slowness'].dims).transpose('cell', 'run')
  for name, pick in reversed(EXTREMES):
    at = ratios[pick(np.mean(np.log(ratios.values), 1))]
    place = 'd = {}, τ = {}, b = {}'.format(*at['cell'].item())
    found.append(make(
      f'quadratic_exact_{name}', f'{data}: the exact theory predicts the steps '
      f'of every cell; {name} ratio', 'steps over ln ε / ln(1 − r*), with the '
      'best mean-square rate r*', at.values, EXACT, log=True,
      note=f'The cell is {place}'
      f'{" in the first rounding" * (config.roundings > 1)}.'))
  return found + _critical(config, grid) + [make(
    'quadratic_workers', f'{data}: n workers with stale gradients need as many '
    'examples as a batch of n', 'examples with b = 1 and τ = n − 1 over those '
    'with b = n and τ = 0, for the n that differs most',
    analysis.stale_over_batch(config, grid), (0.5, 2), log=True, source=PAPER)]


def _critical(config, grid) -> list[Claim]:
  """Judge the critical delay and batch of least squares, and how they grow."""
  found, data = [], 'least squares'
  both = {d: dict(zip(('delay', 'batch'), analysis.critical(config, grid, d)))
          for d in config.dimensions}
  costs = {'delay': 'steps', 'batch': 'examples'}
  for d, critical in both.items():
    found += [make(
      f'quadratic_{what}_{d}', f'{data}, d = {d}: the critical {what} is M',
      f'{what} that doubles the {cost}, over M = d + 1',
      critical[what] / (d + 1), FACTOR, log=True, source=PAPER)
      for what, cost in costs.items()]
  low, high = config.dimensions[0], config.dimensions[-1]
  return found + [make(
    f'quadratic_{what}_growth', f'{data}, d = {low} to {high}: the critical '
    f'{what} is proportional to M', 'its growth over that of M',
    both[high][what] / both[low][what] * (low + 1) / (high + 1), EXACT,
    log=True, source=PAPER) for what in costs]


def noise(config, grid) -> list[Claim]:
  """Judge the grid under label noise."""
  d, eps = config.dimensions[0], config.noise_target
  extra = grid['label_noise']**2 * d / eps
  slow = lambda critical: grid['staleness'] + 1 + critical / grid['batch_size']
  return collapse(
    'noise', 'least squares with label noise', 'τ + 1 + (M + σ²/ε)/b', grid, {
      'm': ('M without σ²/ε', 'τ + 1 + M/b', slow(d + 1)),
      'sigma': ('σ²/ε without M', 'τ + 1 + (σ²/ε)/b', slow(extra))})


def sparse(config, found) -> list[Claim]:
  """Judge the critical delays of sparse data."""
  middle = config.sparse_dimensions[-2]
  slope = lambda own: analysis.fit(np.log(1 / own['density'].values),
                          np.log(own['delay'].values))[0]
  by_density = (found['delay'] * found['density']).values
  by_m = (found['delay'] / (1 + found['noise_ratio'])).values
  extreme = lambda values, pick: values[pick(np.mean(np.log(values), 1))]
  how = 'slope of the log of the critical delay on log(1/Δ)'
  return [
    make('sparse_one_hot', 'rows with one nonzero entry: the critical delay is '
         'proportional to 1/Δ', how, slope(found.isel(
           setting=found['support'].values == 1)), SLOPE, source=PAPER),
    make('sparse_bound', 'sparse data tolerates delays up to 1/Δ at least',
         'critical delay times Δ, least over all settings',
         extreme(by_density, np.argmin), (FACTOR[0], math.inf), log=True,
         source=PAPER),
    make('sparse_wide', f'rows with more nonzero entries, d = {middle}: the '
         'critical delay is proportional to 1/Δ', how, slope(found.isel(
           setting=found['dimension'].values == middle)), SLOPE,
         note='1/Δ − 1 is a lower bound on M. With several nonzero entries M '
         'stays close to d while 1/Δ falls.')] + [
      make(f'sparse_m_{name}', f'the critical delay is 1 + M in every setting; '
           f'{name} ratio', 'critical delay over 1 + M', extreme(by_m, pick),
           FACTOR, log=True) for name, pick in EXTREMES]


def network(config, found) -> list[Claim]:
  """Judge the critical numbers of the network."""
  b, second = config.network_batch_sizes[:2]
  x, data = found.critical, f'{config.model} on {config.dataset}'
  return [
    make('network_saturates', f'{data}: the speed-up by larger batches '
         'saturates', 'exponent of the steps in 1/b between the two smallest '
         'batches, less that between the two largest', x['early'] - x['late'],
         POSITIVE, source=PAPER),
    make('network_one_number', f'{data}: batch and delay saturate at the same '
         'number', f'b times the critical delay at b = {b}, over the critical '
         'batch', x['delay'] / x['batch'], FACTOR, log=True, source=PAPER),
    make('network_tracked', f'{data}: that number is the M tracked during '
         'training', 'mean tracked M over the critical batch',
         x['tracked'] / x['batch'], FACTOR, log=True),
    make('network_second_batch', f'{data}: the larger the batch, the shorter '
         'the critical delay', f'b times the critical delay at b = {second}, '
         f'over the same at b = {b}', x['second_delay'] / x['delay'], FACTOR,
         log=True)]


def rates(config, grid) -> list[Claim]:
  """Judge the largest stable rates of least squares."""
  del config
  cells = grid[['steps', 'slowness', 'limit']].stack(
    cell=grid['slowness'].dims).transpose('cell', 'run')
  limits = cells['steps'].values
  c = limits * cells['slowness'].values[:, None]
  ratios = limits / cells['limit'].values[:, None]
  data = 'least squares'
  at = lambda values, pick: values[pick(np.mean(values, 1))]
  return [make(
    f'rates_c_{name}', f'{data}: the largest stable rate is '
    f'c/(λ (τ + 1 + M/b)) with c from π/2 to 2; {name} c',
    'largest stable rate times λ (τ + 1 + M/b); ± 5 % for the grid of rates',
    at(c, pick), (0.95 * math.pi / 2, 2.1), log=True)
    for name, pick in EXTREMES] + [make(
      f'rates_exact_{name}', f'{data}: the exact limit predicts the largest '
      f'stable rate of every cell; {name} ratio',
      'largest stable rate over the limit of bounded E x²', at(ratios, pick),
      EXACT, log=True) for name, pick in EXTREMES]
