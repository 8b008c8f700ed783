"""The simulated studies: which settings each has, and what is kept of them."""

import numpy as np

from experiments.critical_parameters import quadratics, sparse as sparse_data
from experiments.critical_parameters.counts import doubling, steps_of, tuned
from experiments.engine import progress, signals

# Finer than the grid for tuning: a limit is read off between two rates.
LIMIT_RATES = tuple(2.0**(-k / 8) for k in range(-9, 67))


def quadratic(config, stop: signals.Stop) -> list[dict]:
  """Count steps on least squares, for each dimension, delay and batch.

  In the largest dimension one trajectory makes a run; in smaller ones several.
  """
  together = lambda cell: (
    config.together if cell.dimension < config.dimensions[-1] else 1)
  cells = [quadratics.Cell(d, 0., b, tau)
           for d in config.dimensions for tau in config.stalenesses
           for b in config.batch_sizes]
  return _tuned_cells(
    'quadratic', config, stop, cells, config.target, together)


def noise(config, stop: signals.Stop) -> list[dict]:
  """Count steps under label noise, on every other batch and delay."""
  d = config.dimensions[0]
  cells = [quadratics.Cell(
    d, (ratio * config.noise_target / d)**0.5, b, tau)
    for ratio in config.noise_ratios for tau in config.stalenesses[::2]
    for b in config.batch_sizes[::2]]
  return _tuned_cells(
    'noise', config, stop, cells, config.noise_target,
    lambda cell: config.together)


def _tuned_cells(name, config, stop, cells, target, together):
  def compute(cell):
    steps = quadratics.steps_to(
      cell, target, config.rates, config.num_seeds, together=together(cell),
      max_steps=config.max_steps, max_staleness=config.stalenesses[-1],
      seed=config.seed, is_reversed=config.is_reversed)
    return cell._asdict() | {
      'slowness': cell.slowness(target)} | tuned(steps, config.rates)

  return _each(name, cells, stop, compute)


def _each(title, items, stop, compute) -> list:
  """Compute each item, with a line of progress; a signal ends between two."""
  found = []
  with progress.bar(title, len(items)) as bar:
    for item in items:
      stop.check()
      found.append(compute(item))
      bar.update(1)
  return found


def sparse(config, stop: signals.Stop) -> list[dict]:
  """Count steps on sparse data by delay, up to where they have doubled."""
  middle = config.sparse_dimensions[-2]
  settings = [*((d, 1) for d in config.sparse_dimensions),
              *((middle, k) for k in config.supports)]
  found = _each('sparse', settings, stop,
                lambda setting: _sparse_cells(config, stop, *setting))
  return [cell for cells in found for cell in cells]


def _sparse_cells(config, stop, d, k):
  a = sparse_data.features(d, k, config.seed)
  solved = sparse_data.solution(d, config.seed)
  if config.is_reversed:
    a, solved = a[:, ::-1], solved[::-1]
  m, density = sparse_data.measure_noise(a, solved)
  # As much work for each; chance matters more where coordinates are few.
  together = config.together * config.sparse_dimensions[-1] // d
  found, taus = [], config.sparse_stalenesses
  for tau in taus:
    stop.check()
    steps = sparse_data.steps_to(
      a, solved, tau, target=config.sparse_target, num_runs=config.num_seeds,
      together=together, max_steps=config.max_steps, seed=config.seed,
      max_staleness=taus[-1])
    found.append({'dimension': d, 'support': k, 'density': density,
                  'noise_ratio': m, 'staleness': tau}
                 | tuned(steps, sparse_data.RATES))
    if np.isfinite(doubling(taus, steps_of(found))).all():
      break
  return found


def rates(config, stop: signals.Stop) -> list[dict]:
  """Find the largest stable rate of each run on least squares.

  Kept as 'steps', as the quantity [run] of the other studies is.
  """
  cells = [quadratics.Cell(d, 0., b, tau) for d in config.dimensions
           for b in config.batch_sizes[::2] for tau in config.stalenesses[:-1]]

  def compute(cell):
    growth = quadratics.growth(
      cell, LIMIT_RATES, config.num_seeds, num_steps=config.stable_steps,
      max_staleness=config.stalenesses[-1], seed=config.seed,
      is_reversed=config.is_reversed)
    return cell._asdict() | {
      'slowness': cell.slowness(1.), 'steps': limits(growth)}

  return _each('rates', cells, stop, compute)


def limits(growth: np.ndarray) -> list[float | None]:
  """Find the largest rate of growth [rate, run] that is not positive.

  Linear in ln rate where both sides are finite, else in the middle; None where
  all rates are on one side.
  """
  found, logs = [], np.log(LIMIT_RATES)
  for run in growth.T:
    stable = np.flatnonzero(run < 0)
    if not len(stable) or stable[0] == 0:
      found.append(None)
      continue
    i = stable[0]  # rates fall
    high, low = run[i - 1], run[i]
    share = -low / (high - low) if np.isfinite([low, high]).all() else 0.5
    found.append(float(np.exp(logs[i] + share * (logs[i - 1] - logs[i]))))
  return found
