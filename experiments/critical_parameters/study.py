"""Runs the studies of `critical_parameters`, each into a record of its own."""

import json
import pathlib

import numpy as np

from experiments.critical_parameters import (
  network,
  quadratics,
  sparse as critical_sparse,
  tuning,
)
from experiments.engine import records, trainer

STUDIES = ('quadratic', 'noise', 'sparse', 'network', 'rates')
# Finer than the grid for tuning: a limit is read off between two rates.
LIMIT_RATES = tuple(2.0**(-k / 8) for k in range(-9, 67))


def run_all(config, stop) -> None:
  """Run each study that has no record yet; refuse that of another config."""
  for name in config.studies:
    if name == 'network':
      network.train_all(config, stop)
      continue
    path = pathlib.Path(config.workdir) / f'{name}.json'
    if path.exists():
      trainer.check_config(json.loads(path.read_text())['config'],
                           config.defining(), path.parent)
      continue
    print(f'{name} ...', flush=True)
    run = {'quadratic': quadratic, 'noise': noise, 'sparse': sparse,
           'rates': rates}[name]
    records.write_whole(path, {
      'config': config.defining(), 'cells': run(config, stop)})


def load(config, name: str) -> list[dict]:
  """Read the cells of a study; unknown steps are NaN."""
  path = pathlib.Path(config.workdir) / f'{name}.json'
  cells = json.loads(path.read_text())['cells']
  for cell in cells:
    cell['steps'] = tuning.as_array(cell['steps'])
  return cells


def quadratic(config, stop) -> list[dict]:
  """Count steps on least squares, for each dimension, batch and delay.

  In small dimensions, where one is a matter of luck, a run is several.
  """
  together = lambda cell: (
    config.together if cell.dimension < config.dimensions[-1] else 1)
  cells = [quadratics.Cell(d, 0., b, tau)
           for d in config.dimensions for tau in config.stalenesses
           for b in config.batch_sizes]
  return _tuned(config, stop, cells, config.target, together)


def noise(config, stop) -> list[dict]:
  """The same under label noise, in the first dimension.

  On every other batch and delay.
  """
  d = config.dimensions[0]
  cells = [quadratics.Cell(
    d, (ratio * config.noise_target / d)**0.5, b, tau)
    for ratio in config.noise_ratios for tau in config.stalenesses[::2]
    for b in config.batch_sizes[::2]]
  return _tuned(config, stop, cells, config.noise_target,
                lambda cell: config.together)


def _tuned(config, stop, cells, target, together):
  found = []
  for cell in cells:
    stop.check()
    steps = quadratics.steps_to(
      cell, target, config.rates, config.num_seeds, together=together(cell),
      max_steps=config.max_steps, max_staleness=config.stalenesses[-1],
      seed=config.seed)
    found.append(
      cell._asdict() | {'slowness': cell.slowness(target)}
      | tuning.choose(steps, config.rates))
  return found


def sparse(config, stop) -> list[dict]:
  """Count steps on sparse data by delay, up to where they have doubled."""
  found, middle = [], config.sparse_dimensions[-2]
  for d, k in [*((d, 1) for d in config.sparse_dimensions),
               *((middle, k) for k in config.supports)]:
    a = critical_sparse.features(d, k, config.seed)
    solved = critical_sparse.solution(d, config.seed)
    m, density = critical_sparse.measure_noise(a, solved)
    counts = []
    # As much work for each; where there are few coordinates, one matters more.
    together = config.together * config.sparse_dimensions[-1] // d
    for tau in config.sparse_stalenesses:
      stop.check()
      steps = critical_sparse.steps_to(
        a, solved, tau, target=config.sparse_target,
        num_runs=config.num_seeds, together=together,
        max_steps=config.max_steps, seed=config.seed,
        max_staleness=config.sparse_stalenesses[-1])
      cell = tuning.choose(steps, critical_sparse.RATES)
      found.append({'dimension': d, 'support': k, 'density': density,
                    'noise_ratio': m, 'staleness': tau} | cell)
      counts.append(tuning.as_array(cell['steps']))
      if np.isfinite(tuning.doubling(
          np.array(config.sparse_stalenesses), np.stack(counts))).all():
        break
  return found


def rates(config, stop) -> list[dict]:
  """Find the largest rate of each run at which least squares are stable."""
  found = []
  for d in config.dimensions:
    for b in config.batch_sizes[::2]:
      for tau in config.stalenesses[:-1]:
        stop.check()
        cell = quadratics.Cell(d, 0., b, tau)
        growth = quadratics.growth(
          cell, LIMIT_RATES, config.num_seeds, num_steps=config.stable_steps,
          max_staleness=config.stalenesses[-1], seed=config.seed)
        # Of a rate, what `steps` are elsewhere.
        found.append(cell._asdict() | {
          'slowness': cell.slowness(1.), 'steps': limits(growth)})
  return found


def limits(growth: np.ndarray) -> list[float | None]:
  """Find the largest rate of growth [rates, runs] that is not positive.

  Linear in ln rate where both sides are finite, else in the middle; unknown
  where none of the rates is on either side.
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
