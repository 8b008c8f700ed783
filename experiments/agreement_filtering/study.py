"""Trains the arms of `agreement_filtering`."""

import pathlib

import jax
import jax.numpy as jnp

from experiments.agreement_filtering import analysis, task
from experiments.agreement_filtering.config import Config
from experiments.engine import records, signals, trainer


def train_all(config: Config, stop: signals.Stop) -> None:
  """Train whatever is not trained yet; then test what has been chosen."""
  problem, final = task.Problem(config), {}
  for arm in config.arms():
    workers = trainer.Workers(
      config.num_workers, config.backend, config.lanes_at_once)
    sizes = (analysis.partner_sizes(config, arm) if arm.partner
             else None)
    state = trainer.train(
      problem.program(arm, workers.axis_name, sizes),
      trainer.Schedule(config.steps, config.every, config.save_seconds),
      pathlib.Path(config.workdir) / arm.name, workers=workers, stop=stop,
      config=config.defining() | {'part': arm.name}, title=arm.name)
    final[arm.name] = state['params']
  tests = {}
  for arm in config.arms():
    # [noise, threshold, seed] -> lanes
    chosen = analysis.chosen_lanes(config, arm)
    lanes = jnp.asarray(chosen.ravel())
    accuracy = problem.test_accuracy(
      jax.tree.map(lambda x: x[lanes], final[arm.name]))
    tests[arm.name] = accuracy.reshape(chosen.shape).tolist()
  records.write_whole(pathlib.Path(config.workdir) / 'test.json', tests)
