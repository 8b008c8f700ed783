"""A network by batch and by delay, and what is tracked along it: E4."""

import itertools
import pathlib

import numpy as np
import optax

import gradiv
from experiments.critical_parameters import tuning
from experiments.engine import records, trainer
from experiments.gradient_diversity import task
from experiments.gradient_diversity.mechanisms import analysis

TRACKED = 'network/tracked'


def cells(config) -> list[tuple[int, int]]:
  """List (b, τ): each batch without delay, the first two with each delay."""
  return [*((b, 0) for b in config.network_batch_sizes),
          *itertools.product(config.network_batch_sizes[:2],
                             config.network_stalenesses)]


def part(cell: tuple[int, int]) -> str:
  """Name the folder of a cell."""
  return 'network/batch_{:05d}_delay_{:04d}'.format(*cell)


def seeds(config) -> range:
  """List the seeds."""
  return range(config.seed, config.seed + config.num_seeds)


def train_all(config, stop) -> None:
  """Train every cell; then the first again, at its rates, and track it."""
  problem = task.Problem(config)
  for cell in cells(config):
    settings = list(itertools.product(config.network_rates, seeds(config)))
    train(config, problem, part(cell), cell, settings, stop)
  settings = list(zip(load(config, cells(config)[0])['rates'], seeds(config)))
  train(config, problem, TRACKED, cells(config)[0], settings, stop,
        is_tracked=True)


def train(config, problem, name, cell, settings, stop, is_tracked=False):
  """Train lanes of (rate, seed) of one batch and delay.

  Only what is tracked needs workers: the mean gradient is that of the batch.
  """
  size, staleness = cell
  workers = trainer.Workers(config.num_workers if is_tracked else 1,
                            config.backend, config.lanes_at_once)
  axis = workers.axis_name
  rates, order = map(np.array, zip(*settings))
  lanes = {
    'seed': order.astype(np.uint32),
    'learning_rate': rates.astype(np.float32),
    'rows': np.tile(problem.rows(1, config.seed).astype(np.int32),
                    (len(rates), 1))}
  track = [gradiv.track_moments(
    axis, batch_size=size // config.num_workers, decay=config.decay)]

  def make_optimizer(lane):
    return optax.chain(
      *(track if is_tracked else ()), gradiv.aggregate_by_mean(axis),
      gradiv.delay_updates(staleness), optax.sgd(lane['learning_rate']))

  def read(opt_state):
    if not is_tracked:
      return {}
    return gradiv.read_moments(opt_state).average._asdict()

  steps = config.network_steps
  if not staleness:
    as_many = steps * config.network_batch_sizes[0] // size
    steps = max(config.least_steps, as_many // config.every * config.every)
  trainer.train(
    problem.program(lanes, size, make_optimizer, read=read),
    trainer.Schedule(steps, config.every, config.save_seconds),
    pathlib.Path(config.workdir) / name, workers=workers, stop=stop,
    config=config.defining() | {'part': name, 'settings': settings},
    title=name)


def read_records(config, name):
  """Read a run: 'step', and the rest [lane, record]."""
  rows = records.read(pathlib.Path(config.workdir) / name / 'metrics.jsonl')
  names = set.intersection(*(set(row) for row in rows)) - {'step'}
  run = {key: np.array([row[key] for row in rows], float).T for key in names}
  return run | {'step': np.array([row['step'] for row in rows])}


def load(config, cell: tuple[int, int]) -> dict:
  """Count the steps of a cell to the target loss, at the rates chosen."""
  run = read_records(config, part(cell))
  loss = np.nan_to_num(run['loss'], nan=np.inf).reshape(
    len(config.network_rates), config.num_seeds, -1)
  # What diverged is far away, but a number to interpolate to.
  loss = np.minimum(loss, 1e6)
  steps = analysis.steps_to(-config.target_loss, run['step'], -loss)
  found = tuning.choose(steps, config.network_rates)
  found['steps'] = tuning.as_array(found['steps'])
  return {'batch_size': cell[0], 'staleness': cell[1]} | found


def tracked_noise(config) -> tuple[np.ndarray, np.ndarray]:
  """Average the M tracked up to the target loss: [seed]; and its course.

  Where the gradient is noisy, batches of b take (1 + M/b) times the steps that
  exact gradients do; so that a step counts 1/(1 + M/b) towards the end:
  Σ M/(1 + M/b) over Σ 1/(1 + M/b), which no M that is far too large decides.
  """
  run, b = read_records(config, TRACKED), config.network_batch_sizes[0]
  loss = np.nan_to_num(run['loss'][:, 1:], nan=np.inf)
  signal = np.maximum(run['sq_norm'][:, 1:], 0)
  share = signal / (signal + run['variance'][:, 1:])  # 1/(1 + M)
  before = np.cumsum(loss <= config.target_loss, 1) == 0
  before[:, 0] = True
  scale = share + (1 - share) / b
  mean = lambda x: np.sum(np.where(before, x, 0), 1)
  return mean((1 - share) / scale) / mean(share / scale), share
