"""Reduces the records to steps by setting, and to critical numbers by run."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from experiments.common import intervals, results
from experiments.critical_parameters import network
from experiments.critical_parameters.counts import doubling, steps_of

# The axes of the cells of a study, in the order of its record.
AXES = {'quadratic': ('dimension', 'staleness', 'batch_size'),
        'noise': ('label_noise', 'staleness', 'batch_size'),
        'rates': ('dimension', 'batch_size', 'staleness')}
# The part with the exact theory of a study.
EXACT = {'quadratic': 'exact_steps', 'rates': 'exact_limits'}


@dataclasses.dataclass(frozen=True)
class Reduced:
  """What claims, tables and figures show; None where a study was not chosen.

  Attributes:
    quadratic: 'steps' [dimension, staleness, batch_size, run], 'slowness', and
      the 'exact' steps of the theory.
    noise: The same by 'label_noise' in place of the dimension.
    rates: The largest stable rates, as 'steps'; their exact 'limit', and its
      'curve' [batch_size, dimension, delay].
    sparse: 'delay' [setting, run], the critical one, and what the setting is.
    network: The network.
    edges: By study, how many cells chose a rate at an end of the grid, and how
      many cells there are.
  """

  quadratic: xr.Dataset | None
  noise: xr.Dataset | None
  rates: xr.Dataset | None
  sparse: xr.Dataset | None
  network: network.Network | None
  edges: Mapping[str, tuple[int, int]]


def reduce(config, done) -> Reduced:
  """Label the cells of each study, and find what is critical."""
  edges = {name: (sum(cell['at_edge'] for cell in done[name]), len(done[name]))
           for name in ('quadratic', 'noise', 'sparse') if name in done}
  found = None
  if network.TRACKED in done:
    found, edges['network'] = network.reduce(config, done)
  grids = {name: _labeled(done[name], axes) if name in done else None
           for name, axes in AXES.items()}
  sparse = _critical_delays(done['sparse']) if 'sparse' in done else None
  for name, exact in EXACT.items():
    if grids.get(name) is not None:
      grids[name] = grids[name].merge(done[exact], join='left')
  return Reduced(**grids, sparse=sparse, network=found, edges=edges)


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


def _labeled(cells: list[dict], axes: tuple[str, ...]) -> xr.Dataset:
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


def fit(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Fit lines of y [cell, run] on x [cell]: slopes, and RMS errors, both [run].

  NaN where a cell is unknown.
  """
  x = x - x.mean()
  slope = x @ (y - y.mean(0)) / max(x @ x, 1e-12)
  miss = y - y.mean(0) - x[:, None] * slope
  return slope, np.sqrt(np.mean(miss**2, 0))
