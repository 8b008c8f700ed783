"""What `gradient_diversity --study=batches` trains: three kinds of runs."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from experiments.engine import signals, trainer
from experiments.gradient_diversity import task, tracking
from experiments.gradient_diversity.batches import analysis


def distances(params) -> dict:
  """Compare the first half of the lanes with the second, pair by pair.

  sqrt(‖w − w'‖² / (‖w‖² + ‖w'‖²)), from 0 to √2.
  """
  flat = jnp.concatenate([x.reshape(len(x), -1)
                          for x in jax.tree.leaves(params)], 1)
  one, other = jnp.split(flat, 2)
  squares = lambda x: jnp.sum(x**2, 1)
  total = squares(one) + squares(other)
  return {'distance': jnp.sqrt(squares(one - other) / total)}


def lanes_of(problem: task.Problem, settings) -> dict:
  """Make lanes of (replication, learning rate, seed), in this order."""
  rows = {(r, s): problem.rows(r, s) for r, _, s in settings}
  return {
    'seed': np.array([s for _, _, s in settings], np.uint32),
    'learning_rate': np.array([rate for _, rate, _ in settings], np.float32),
    'rows': np.stack([rows[r, s] for r, _, s in settings]).astype(np.int32),
  }


def train_all(config, stop: signals.Stop) -> None:
  """Train whatever is not trained yet; all results go into records."""
  problem = task.Problem(config)
  workdir = pathlib.Path(config.workdir)
  seeds = range(config.seed, config.seed + config.num_seeds)
  per_pass = lambda size: config.train_examples // size

  def train(name, settings, lanes, size, *, track=False, every=None, **kwargs):
    workers = trainer.Workers(
      config.num_workers if track else 1,
      config.backend if track else 'vmap',
      config.lanes_at_once)
    every = every or per_pass(size)
    optimizer = functools.partial(
      tracking.make_optimizer, config=config, track=track,
      axis_name=workers.axis_name)
    trainer.train(
      problem.program(lanes, size, optimizer, **kwargs),
      trainer.Schedule(config.passes * per_pass(size), every,
                       config.save_seconds),
      workdir / name / f'batch_{size:05d}', workers=workers, stop=stop,
      config=config.defining() | {'part': name, 'settings': settings},
      title=f'{name}, batch {size}')

  grid = [(r, rate, s) for r in config.replications
          for rate in config.learning_rates for s in seeds]
  for size in config.batch_sizes:
    train('sweep', grid, lanes_of(problem, grid), size)
  tuned = analysis.tuned_rates(config)
  size = config.reference_batch_size
  settings = [(r, tuned[r, size], s)
              for r in config.replications for s in seeds]
  train('diversity', settings, lanes_of(problem, settings), size, track=True,
        every=max(1, per_pass(size) // 2),
        gradient=problem.measured_gradient,
        read=functools.partial(tracking.read, decay=config.decay),
        evaluate=(problem.evaluate_exactly if config.exact
                  else problem.evaluate))
  for size in config.batch_sizes:
    twins = range(config.seed, config.seed + config.num_twins)
    settings = [(1, tuned[1, size], s) for s in twins] * 2
    lanes = lanes_of(problem, settings)
    # The second half trains on a set in which one example is another.
    for lane, seed in enumerate(twins, config.num_twins):
      place = np.random.default_rng(seed).integers(config.train_examples)
      lanes['rows'][lane, place] = config.train_examples
    train('stability', settings, lanes, size, compare=distances)
