"""The claims of `critical_parameters`, each held to what was measured.

A claim holds where the whole 95 % interval lies within what is allowed: a slope
of 1 ± 0.15, since a law that is right up to a factor of two over two decades or
more has hardly another; a factor of 3 where the law is one of orders of
magnitude; and for the exact theory of quadratics, 25 %, for the start of a run,
of τ steps without any, is not in it. These are round numbers, set while the
studies were built and not before anything was seen; what is measured is told.
"""

import functools
import math
from collections.abc import Callable

import numpy as np

from experiments.critical_parameters import (
  network as critical_network,
  study as critical_studies,
  theory,
  tuning,
)

SLOPE, FACTOR, EXACT = (0.85, 1.15), (1 / 3, 3.), (0.8, 1.25)
# Below this many steps a law of proportion has nothing to say.
LEAST_SLOWNESS = 4.


def claim(study, text, law, runs, allowed, log=False) -> dict:
  """Make a row of the table of a quantity [runs]; means of logs with `log`."""
  known = np.log(runs) if log else np.asarray(runs)
  mean, low, high = tuning.interval(known)
  if log:
    mean, low, high = (math.exp(x) for x in (mean, low, high))
  holds = bool(allowed[0] <= low and high <= allowed[1])
  plain = lambda x: x if math.isfinite(x) else None
  return {'study': study, 'claim': text, 'law': law,
          'measured': plain(mean), 'interval': [plain(low), plain(high)],
          'allowed': [plain(x) for x in allowed], 'passed': holds}


def list_claims(config) -> list[dict]:
  """Judge each claim of the studies that were chosen."""
  judges: dict[str, Callable] = {
    'quadratic': quadratic, 'noise': noise, 'sparse': sparse,
    'network': network, 'rates': rates}
  return [row for name in critical_studies.STUDIES if name in config.studies
          for row in judges[name](config)]


def steps_of(cells) -> np.ndarray:
  """Stack the steps of cells: [cells, runs]."""
  return np.stack([cell['steps'] for cell in cells])


def fit(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Fit lines of y [cells, runs] on x [cells]: the slopes, and the misses.

  NaN where a cell is unknown.
  """
  x = x - x.mean()
  slope = x @ (y - y.mean(0)) / max(x @ x, 1e-12)
  miss = y - y.mean(0) - x[:, None] * slope
  return slope, np.sqrt(np.mean(miss**2, 0))


def collapse(study, law, cells, slowness, others) -> list[dict]:
  """Claim a slope of one on the law, and that no other fits half as well."""
  cells = [c for c, k in zip(cells, slowness) if k >= LEAST_SLOWNESS]
  slowness = np.array([k for k in slowness if k >= LEAST_SLOWNESS])
  y = np.log(steps_of(cells))
  slope, miss = fit(np.log(slowness), y)
  rows = [claim(
    study, 'steps collapse onto one curve of batch, delay and noise',
    f'steps ~ {law}: slope of the logs', slope, SLOPE)]
  for name, other in others.items():
    x = np.log([other(c) for c in cells])
    rows.append(claim(
      study, f'they do not with {name}', f'misses a line by more than with '
      f'{law}, by a factor', fit(x, y)[1] / miss, (2, math.inf), log=True))
  return rows


def quadratic(config) -> list[dict]:
  """Judge the grid of batches and delays on least squares."""
  cells = critical_studies.load(config, 'quadratic')
  rows = collapse(
    'quadratic', 'τ + 1 + M/b', cells, [c['slowness'] for c in cells], {
      'the batch alone': lambda c: 1 + (c['dimension'] + 1) / c['batch_size'],
      'the delay alone': lambda c: c['staleness'] + 1,
      'examples under way alone': lambda c: (
        c['batch_size'] * (c['staleness'] + 1))})
  ratios = steps_of(cells) / np.array(
    [exact_steps(c, config.target) for c in cells])[:, None]
  middle = np.exp(np.mean(np.log(ratios), 1))
  for name, i in (('most', middle.argmax()), ('fewest', middle.argmin())):
    c = cells[i]
    rows.append(claim(
      'quadratic', f'the exact best rate predicts every cell; {name} at '
      f'd={c["dimension"]}, b={c["batch_size"]}, τ={c["staleness"]}',
      'steps over ln ε / ln(1 − r*)', ratios[i], EXACT, log=True))
  delays, batches = critical(config, cells)
  for d in config.dimensions:
    for what, found in (('delay', delays[d]), ('batch', batches[d])):
      rows.append(claim(
        'quadratic', f'the critical {what} is M, d={d}',
        f'{what} at which twice the ' + (
          'steps' if what == 'delay' else 'examples')
        + ' are needed, over M = d + 1', found / (d + 1), FACTOR, log=True))
  low, high = config.dimensions[0], config.dimensions[-1]
  for what, found in (('delay', delays), ('batch', batches)):
    rows.append(claim(
      'quadratic', f'the critical {what} grows with M, d={low} to {high}',
      'growth over that of M',
      found[high] / found[low] * (low + 1) / (high + 1), EXACT, log=True))
  rows.append(claim(
    'quadratic', 'n stale workers need as many examples as a batch of n',
    'examples of the one over the other, worst n', alike(config, cells),
    (0.5, 2), log=True))
  return rows


def exact_steps(cell, target) -> float:
  """Predict the steps of a cell without noise from r*."""
  m = (cell['dimension'] + 1) / cell['batch_size']
  return math.log(target) / math.log1p(-best_rate(m, cell['staleness']))


@functools.cache
def best_rate(m, tau) -> float:
  """Compute r* once."""
  return theory.best_rate(m, tau)[0]


def critical(config, cells) -> tuple[dict, dict]:
  """Find the delay of b = 1, and the batch without delay, that double."""
  delays, batches = {}, {}
  for d in config.dimensions:
    own = {(c['batch_size'], c['staleness']): c['steps'] for c in cells
           if c['dimension'] == d}
    delays[d] = tuning.doubling(
      np.array(config.stalenesses),
      np.stack([own[1, tau] for tau in config.stalenesses]))
    batches[d] = tuning.doubling(
      np.array(config.batch_sizes),
      np.stack([b * own[b, 0] for b in config.batch_sizes]))
  return delays, batches


def alike(config, cells) -> np.ndarray:
  """Compare n workers, τ = n − 1, to a batch of n: [runs], of the worst n.

  Steps at n − 1 are read off linearly between two delays.
  """
  ratios = []
  for d in config.dimensions:
    own = {(c['batch_size'], c['staleness']): c['steps'] for c in cells
           if c['dimension'] == d}
    table = np.stack([own[1, tau] for tau in config.stalenesses])
    for n in config.batch_sizes:
      if n - 1 <= config.stalenesses[-1]:
        stale = np.array([np.interp(n - 1, config.stalenesses, run)
                          for run in table.T])
        ratios.append(stale / (n * own[n, 0]))
  return ratios[np.argmax(np.abs(np.log(np.mean(ratios, 1))))]


def noise(config) -> list[dict]:
  """Judge the grid under label noise."""
  cells, eps = critical_studies.load(config, 'noise'), config.noise_target
  extra = lambda c: c['label_noise']**2 * c['dimension'] / eps
  m = lambda c: c['dimension'] + 1
  slow = lambda c, critical: c['staleness'] + 1 + critical / c['batch_size']
  return collapse(
    'noise', 'τ + 1 + (M + σ²/ε)/b', cells, [c['slowness'] for c in cells], {
      'M alone': lambda c: slow(c, m(c)),
      'σ²/ε alone': lambda c: slow(c, extra(c))})


def sparse_delays(config) -> list[dict]:
  """Find the critical delay of each setting of sparse data."""
  cells, found = critical_studies.load(config, 'sparse'), {}
  for cell in cells:
    found.setdefault((cell['dimension'], cell['support']), []).append(cell)
  return [own[0] | {'delay': tuning.doubling(
    np.array([c['staleness'] for c in own]), steps_of(own))}
    for own in found.values()]


def sparse(config) -> list[dict]:
  """Judge the critical delays of sparse data."""
  found = sparse_delays(config)
  one_hot = [f for f in found if f['support'] == 1]
  wide = [f for f in found if f['dimension'] == config.sparse_dimensions[-2]]
  slope = lambda own: fit(np.log([1 / f['density'] for f in own]),
                          np.log([f['delay'] for f in own]))[0]
  extreme = lambda values, pick: values[pick(np.mean(np.log(values), 1))]
  bound = [f['delay'] * f['density'] for f in found]
  by_m = np.array([f['delay'] / (1 + f['noise_ratio']) for f in found])
  rows = [
    claim('sparse', 'of one-hot rows the critical delay grows as 1/Δ',
          'slope of its log on that of 1/Δ', slope(one_hot), SLOPE),
    claim('sparse', 'sparse data is free of delays up to 1/Δ at least',
          'critical delay · Δ, where it is least', extreme(bound, np.argmin),
          (FACTOR[0], math.inf), log=True),
    claim('sparse', f'at d={config.sparse_dimensions[-2]} it is 1/Δ too where '
          'rows have more numbers', 'slope of its log on that of 1/Δ',
          slope(wide), SLOPE)]
  for name, pick in (('least', np.argmin), ('largest', np.argmax)):
    rows.append(claim(
      'sparse', f'M explains every critical delay; where it is {name}',
      'critical delay over 1 + M', extreme(by_m, pick), FACTOR, log=True))
  return rows


def network_critical(config) -> dict[str, np.ndarray]:
  """Find what is critical for the network: [seed] each."""
  steps = {cell: critical_network.load(config, cell)['steps']
           for cell in critical_network.cells(config)}
  sizes, taus = config.network_batch_sizes, (0, *config.network_stalenesses)
  delays = [tuning.doubling(
    np.array(taus), np.stack([steps[b, tau] for tau in taus]))
    for b in sizes[:2]]
  # T = T_min (1 + B/b) on the first and last batch, exactly.
  first, last = steps[sizes[0], 0], steps[sizes[-1], 0]
  slope = (first - last) / (1 / sizes[0] - 1 / sizes[-1])
  least = last - slope / sizes[-1]
  second, before = steps[sizes[1], 0], steps[sizes[-2], 0]
  return {'batch': slope / least, 'delay': delays[0] * sizes[0],
          'second_delay': delays[1] * sizes[1],
          'tracked': critical_network.tracked_noise(config)[0],
          'early': np.log(first / second) / math.log(sizes[1] / sizes[0]),
          'late': np.log(before / last) / math.log(sizes[-1] / sizes[-2])}


def network(config) -> list[dict]:
  """Judge what is critical for the network."""
  found = network_critical(config)
  b, second = config.network_batch_sizes[:2]
  row = functools.partial(claim, 'network')
  return [
    row('the speed-up by the batch saturates',
        'exponent of steps in 1/b, first less last',
        found['early'] - found['late'], (0, math.inf)),
    row('batch and delay saturate at one number', f'b · critical delay, b={b},'
        ' over the critical batch', found['delay'] / found['batch'], FACTOR,
        log=True),
    row('it is the M tracked along the training', 'M over the critical batch',
        found['tracked'] / found['batch'], FACTOR, log=True),
    row('larger batches stand less delay', f'critical delay · b at b={second} '
        f'over b={b}', found['second_delay'] / found['delay'], FACTOR,
        log=True)]


def rates(config) -> list[dict]:
  """Judge the largest stable rates of least squares."""
  cells = critical_studies.load(config, 'rates')
  limits = steps_of(cells)
  c = limits * np.array([cell['slowness'] for cell in cells])[:, None]
  exact = np.array([theory.mean_square_limit(
    (cell['dimension'] + 1) / cell['batch_size'], cell['staleness'])
    for cell in cells])
  ratios, rows = limits / exact[:, None], []
  for name, pick in (('least', np.argmin), ('largest', np.argmax)):
    i = pick(np.mean(c, 1))
    rows.append(claim(
      'rates', f'the largest stable rate is c/(λ (τ + 1 + M/b)); {name} c',
      'c from π/2 to 2, ± 5 % for the grid', c[i],
      (0.95 * math.pi / 2, 2.1), log=True))
  for name, pick in (('least', np.argmin), ('largest', np.argmax)):
    rows.append(claim(
      'rates', f'the exact limit predicts every cell; {name}',
      'over that of E x²', ratios[pick(np.mean(ratios, 1))], EXACT, log=True))
  return rows
