"""Reduces the records to steps by setting, and to critical numbers by run."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from experiments.common import intervals, results, tuning
from experiments.critical_parameters import theory
from experiments.critical_parameters.grids import doubling, steps_of

TRACKED = 'network/tracked'
# The axes of the cells of a study, in the order of its record.
AXES = {'quadratic': ('dimension', 'staleness', 'batch_size'),
        'noise': ('label_noise', 'staleness', 'batch_size'),
        'rates': ('dimension', 'batch_size', 'staleness')}


@dataclasses.dataclass(frozen=True)
class Network:
  """What is known of the network.

  Attributes:
    steps: Steps [seed] to the target loss, by (batch size, delay).
    critical: The critical numbers, each [seed]: see `_critical`.
    course: 1/(1 + M) [seed, step] as tracked, from the first record on.
  """

  steps: Mapping[tuple[int, int], np.ndarray]
  critical: Mapping[str, np.ndarray]
  course: xr.DataArray


@dataclasses.dataclass(frozen=True)
class Reduced:
  """What claims, tables and figures show; None where a study was not chosen.

  Attributes:
    quadratic: 'steps' [dimension, staleness, batch_size, run], 'slowness'.
    noise: The same by 'label_noise' in place of the dimension.
    rates: The largest stable rates, as 'steps'.
    sparse: 'delay' [setting, run], the critical one, and what the setting is.
    network: The network.
    edges: By study, how many cells chose a rate at an end of the grid, and how
      many cells there are.
  """

  quadratic: xr.Dataset | None
  noise: xr.Dataset | None
  rates: xr.Dataset | None
  sparse: xr.Dataset | None
  network: Network | None
  edges: Mapping[str, tuple[int, int]]


def part_name(batch_size: int, staleness: int) -> str:
  """Name the part of a cell of the network."""
  return f'network/batch_{batch_size:05d}_delay_{staleness:04d}'


def reduce(config, done) -> Reduced:
  """Label the cells of each study, and find what is critical."""
  edges = {name: (sum(cell['at_edge'] for cell in done[name]), len(done[name]))
           for name in ('quadratic', 'noise', 'sparse') if name in done}
  network = None
  if TRACKED in done:
    cells = {cell: network_steps(config, done[part_name(*cell)])
             for cell in config.network_cells()}
    network = _network(
      config, {cell: steps for cell, (steps, _) in cells.items()},
      done[TRACKED])
    at_edge = [tuning.is_at_edge(chosen, len(config.network_rates)).any()
               for _, chosen in cells.values()]
    edges['network'] = int(sum(at_edge)), len(cells)
  grids = {name: _labelled(done[name], axes) if name in done else None
           for name, axes in AXES.items()}
  sparse = _critical_delays(done['sparse']) if 'sparse' in done else None
  return Reduced(**grids, sparse=sparse, network=network, edges=edges)


def summarize(config, reduced: Reduced) -> dict[str, Any]:
  """Return how tuning went, and the critical numbers of the network."""
  del config
  summary: dict[str, Any] = {
    'edges': {name: list(counts) for name, counts in reduced.edges.items()}}
  if reduced.network is not None:
    summary['network'] = {
      name: [results.known(x) for x in intervals.of_mean(runs)]
      for name, runs in reduced.network.critical.items()}
  return summary


def _labelled(cells: list[dict], axes: tuple[str, ...]) -> xr.Dataset:
  """Lay out cells, which are in the order of the product of the axes."""
  values = {name: list(dict.fromkeys(cell[name] for cell in cells))
            for name in axes}
  sizes = [len(value) for value in values.values()]
  slowness = np.reshape([cell['slowness'] for cell in cells], sizes)
  return xr.Dataset(
    {'steps': ((*axes, 'run'), steps_of(cells).reshape(*sizes, -1)),
     'slowness': (axes, slowness)}, values)


def _critical_delays(cells: list[dict]) -> xr.Dataset:
  """Find the critical delay of each setting of sparse data."""
  found: dict[tuple[int, int], list[dict]] = {}
  for cell in cells:
    found.setdefault((cell['dimension'], cell['support']), []).append(cell)
  delays = [doubling(tuple(cell['staleness'] for cell in own), steps_of(own))
            for own in found.values()]
  return xr.Dataset({'delay': (('setting', 'run'), np.stack(delays))} | {
    name: ('setting', [own[0][name] for own in found.values()])
    for name in ('dimension', 'support', 'density', 'noise_ratio')})


def critical(config, grid: xr.Dataset, d: int) -> tuple[np.ndarray, np.ndarray]:
  """Find where least squares need twice as much, in dimension d: [run] each.

  The delay at which a batch of one needs twice the steps, and the batch at
  which runs without delay need twice the examples.
  """
  own = grid['steps'].sel(dimension=d)
  examples = own.sel(staleness=0) * own['batch_size']
  return (
    doubling(config.stalenesses, own.sel(batch_size=1).values),
    doubling(config.batch_sizes, examples.transpose('batch_size', 'run').values)
  )


def exact_steps(config, grid: xr.Dataset) -> xr.DataArray:
  """Predict the steps on least squares without noise from the best rate r*."""
  exact = xr.zeros_like(grid['slowness'])
  for cell in np.ndindex(exact.shape):
    at = {name: int(x) for name, x in exact[cell].coords.items()}
    rate, _ = theory.best_rate(
      (at['dimension'] + 1) / at['batch_size'], at['staleness'])
    exact[cell] = math.log(config.target) / math.log1p(-rate)
  return exact


def stale_over_batch(config, grid: xr.Dataset) -> np.ndarray:
  """Compare n workers, τ = n − 1, with a batch of n, in examples: [run].

  Returns the pair of d and n that differs most. The steps at τ = n − 1 are read
  off linearly between two delays.
  """
  ratios, taus = [], config.stalenesses
  for d in config.dimensions:
    own = grid['steps'].sel(dimension=d)
    single = own.sel(batch_size=1).values
    for n in config.batch_sizes:
      if n - 1 <= taus[-1]:
        stale = np.array([np.interp(n - 1, taus, run) for run in single.T])
        ratios.append(stale / (n * own.sel(batch_size=n, staleness=0).values))
  return ratios[np.argmax(np.abs(np.log(np.mean(ratios, 1))))]


def network_steps(config, run: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
  """Count the steps [seed] of a cell to the target loss, at the rates chosen.

  Also returns the indices [seed] of these rates.
  """
  loss = run['loss'].transpose('rate', 'seed', 'step').values
  # A loss that diverged is large, but a number to interpolate to.
  loss = np.minimum(np.nan_to_num(loss, nan=np.inf), 1e6)
  steps = tuning.steps_to(config.target_loss, run['step'].values, loss)
  chosen = tuning.chosen_on_others(steps)
  found = steps[chosen, np.arange(len(chosen))]
  return np.where(np.isfinite(found), found, np.nan), chosen


def network_rates(config, run: xr.Dataset) -> dict[int, float]:
  """Return the rate chosen for each seed of a cell."""
  _, chosen = network_steps(config, run)
  return {seed: config.network_rates[k]
          for seed, k in zip(config.seeds, chosen)}


def _network(config, steps, run: xr.Dataset) -> Network:
  """Find what is critical for the network."""
  run = run.isel(step=slice(1, None)).transpose('seed', 'step')
  signal = run['sq_norm'].clip(min=0)
  course = signal / (signal + run['variance'])
  loss = np.nan_to_num(run['loss'].values, nan=np.inf)
  tracked = _mean_tracked(
    course.values, loss <= config.target_loss, config.network_batch_sizes[0])
  return Network(steps, _critical(config, steps) | {'tracked': tracked}, course)


def _critical(config, steps) -> dict[str, np.ndarray]:
  """Compute numbers [seed] from the steps of all cells.

  'batch': the critical batch B of T = T₀ (1 + B/b), through the smallest and
  the largest batch. 'delay' and 'second_delay': the delay that doubles the
  steps of the first and of the second batch, times the batch. 'early' and
  'late': the exponent of the steps in 1/b at the small and at the large end.
  """
  sizes, taus = config.network_batch_sizes, (0, *config.network_stalenesses)
  delays = [b * doubling(taus, np.stack([steps[b, tau] for tau in taus]))
            for b in sizes[:2]]
  first, last = steps[sizes[0], 0], steps[sizes[-1], 0]
  slope = (first - last) / (1 / sizes[0] - 1 / sizes[-1])
  least = last - slope / sizes[-1]
  second, before = steps[sizes[1], 0], steps[sizes[-2], 0]
  return {'batch': slope / least, 'delay': delays[0], 'second_delay': delays[1],
          'early': np.log(first / second) / math.log(sizes[1] / sizes[0]),
          'late': np.log(before / last) / math.log(sizes[-1] / sizes[-2])}


def _mean_tracked(share: np.ndarray, is_reached: np.ndarray, batch_size: int
                  ) -> np.ndarray:
  """Average the tracked M up to the target loss: [seed].

  Steps on batches of b make 1/(1 + M/b) of the progress of exact gradients, so
  that is the weight of a step: Σ M/(1 + M/b) over Σ 1/(1 + M/b). A single M
  that is far too large does not decide this mean.

  Args:
    share: 1/(1 + M) [seed, step].
    is_reached: [seed, step].
    batch_size: b.
  """
  before = np.cumsum(is_reached, 1) == 0
  before[:, 0] = True
  scale = share + (1 - share) / batch_size
  total = lambda x: np.sum(np.where(before, x, 0), 1)
  return total((1 - share) / scale) / total(share / scale)
