"""Reduces the records of the network to steps and critical numbers by seed."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
import xarray as xr

from experiments.common import tuning
from experiments.critical_parameters.counts import doubling

TRACKED = 'network/tracked'


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


def part_name(batch_size: int, staleness: int) -> str:
  """Name the part of a cell of the network."""
  return f'network/batch_{batch_size:05d}_delay_{staleness:04d}'


def reduce(config, done) -> tuple[Network, tuple[int, int]]:
  """Reduce the records to critical numbers.

  Also returns how many cells chose a rate at an end of the grid, and how many
  cells there are.
  """
  steps, at_edge = {}, []
  for cell in config.network_cells():
    steps[cell], chosen = steps_of(config, done[part_name(*cell)])
    at_edge.append(tuning.is_at_edge(chosen, len(config.network_rates)).any())
  run = done[TRACKED].isel(step=slice(1, None)).transpose('seed', 'step')
  signal = run['sq_norm'].clip(min=0)
  course = signal / (signal + run['variance'])
  loss = np.nan_to_num(run['loss'].values, nan=np.inf)
  tracked = _mean_tracked(
    course.values, loss <= config.target_loss, config.network_batch_sizes[0])
  critical = _critical(config, steps) | {'tracked': tracked}
  return Network(steps, critical, course), (int(sum(at_edge)), len(at_edge))


def steps_of(config, run: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
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


def rates_of(config, run: xr.Dataset) -> dict[int, float]:
  """Return the rate chosen for each seed of a cell."""
  _, chosen = steps_of(config, run)
  return {seed: config.network_rates[k]
          for seed, k in zip(config.seeds, chosen)}


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
