"""The study of batch sizes: its parts, and what becomes of them."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import study
from experiments.common.parts import Trained
from experiments.gradient_diversity import tracking
from experiments.gradient_diversity.batches import (
  analysis,
  claims,
  figures,
  tables,
)
from experiments.gradient_diversity.task import Problem


class Batches(study.Study):
  """Yin et al. 2018, section 6."""

  name = 'gradient_diversity'
  title = 'Yin et al. 2018: gradient diversity'
  link = 'https://proceedings.mlr.press/v84/yin18a.html'
  command = 'make demo'
  sentence = ('Batches far beyond B_S waste gradients, on all four sets; '
              'whether the noise scale predicts every cell to a factor of '
              '1.5 is open, and the order of Fig. 3 fails here.')
  setup = ('An MLP on 1,024 digits, of which a random 1/r is kept and repeated '
           'r times, which lowers the gradient diversity (section 6 of the '
           "paper). Rates are tuned for each batch size and r. The paper's "
           'numbers are of logistic regression on CIFAR-10, read off its '
           'plots.')
  pictures = {
    'collapse': 'Gradients to the target over the fewest, by batch size over '
    'noise scale: all sets on one curve',
    'loss_ratio': 'Loss after equal passes, over that of the smallest batch',
    'diversity': 'The batch-size bound along the training, tracked and exact',
    'stability': 'How far two runs end apart whose sets differ in one example'}
  figures = {
    'collapse': figures.collapse, 'loss_ratio': figures.loss_ratio,
    'diversity': figures.diversity, 'stability': figures.stability}

  def prepare(self, config):
    """Load the data and build the network."""
    return Problem(config)

  def stages(self, config, task, done):
    """Yield the sweep; then what is trained at the rates that it chose."""
    yield [self.sweep(config, task, size) for size in config.batch_sizes]
    rates = analysis.tuned_rates(config, done)
    yield [self.tracked(config, task, rates),
           *(self.twins(config, task, size, rates)
             for size in config.batch_sizes)]

  def sweep(self, config, task, size):
    """Train every r, rate and seed on batches of one size."""
    workers = config.workers(1)

    def program(lanes):
      return task.program(
        lanes | {'rows': rows_of(task, lanes['replication'], lanes['seed'])},
        size, functools.partial(
          tracking.plain_sgd, axis_name=workers.axis_name))

    return Trained(
      analysis.part_of('sweep', size),
      {'replication': config.replications, 'rate': config.learning_rates,
       'seed': tuple(config.seeds)},
      program, schedule(config, size), workers=workers,
      defined_by=config.pick_task() | {'batch_size': size})

  def tracked(self, config, task, rates):
    """Train every r and seed at its rate, and track the diversity."""
    size, workers = config.reference_batch_size, config.workers()

    def program(lanes):
      return task.program(
        lanes | {'rows': rows_of(task, lanes['replication'], lanes['seed'])},
        size, functools.partial(
          tracking.tracked_sgd, config=config, axis_name=workers.axis_name),
        gradient=task.measured_gradient,
        read=tracking.read,
        evaluate=task.evaluate_exactly if config.exact else task.evaluate)

    return Trained(
      analysis.part_of('diversity', size),
      {'replication': config.replications, 'seed': tuple(config.seeds)},
      program, schedule(config, size, looks=config.looks), workers=workers,
      defined_by=config.pick_task('decay', 'exact') | {'batch_size': size},
      also=lambda at: {'rate': float(rates.sel(
        replication=at['replication'], batch=size))})

  def twins(self, config, task, size, rates):
    """Train pairs of runs whose training sets differ in one example."""
    workers = config.workers(1)

    def program(lanes):
      return task.program(
        lanes | {'rows': twin_rows(task, lanes['half'], lanes['seed'])}, size,
        functools.partial(tracking.plain_sgd, axis_name=workers.axis_name),
        compare=distances)

    rate = float(rates.sel(replication=1, batch=size))
    twins = range(config.seed, config.seed + config.num_twins)
    return Trained(
      analysis.part_of('stability', size),
      {'half': (0, 1), 'seed': tuple(twins)}, program, schedule(config, size),
      workers=workers,
      defined_by=config.pick_task() | {'batch_size': size},
      also=lambda at: {'rate': rate})

  def reduce(self, config, done):
    """Choose rates; keep what claims, tables and figures show."""
    return analysis.reduce(config, done)

  def summarize(self, config, reduced):
    """Return the numbers of every r and batch size."""
    return analysis.summarize(config, reduced)

  def claims(self, config, reduced):
    """Judge the claims."""
    return claims.claims(config, reduced)

  def tables(self, config, reduced):
    """Lay the numbers out."""
    return tables.tables(config, reduced)


def schedule(config, size: int, looks: int = 1):
  """Train for --passes, with up to `looks` records a pass."""
  steps = config.train_examples // size
  return config.schedule(config.passes * steps, steps // math.gcd(steps, looks))


def rows_of(task, replications: np.ndarray, seeds: np.ndarray) -> np.ndarray:
  """Stack the training sets of lanes: rows [L, train_examples]."""
  pairs = list(zip(replications.tolist(), seeds.tolist()))
  rows = {pair: task.rows(*pair) for pair in set(pairs)}
  return np.stack([rows[pair] for pair in pairs])


def twin_rows(task, halves: np.ndarray, seeds: np.ndarray) -> np.ndarray:
  """Stack the training sets of twins: in half 1, one example is another."""
  rows = rows_of(task, np.ones(len(seeds)), seeds)
  num_examples = rows.shape[1]
  for lane in np.flatnonzero(halves):
    place = np.random.default_rng(int(seeds[lane])).integers(num_examples)
    rows[lane, place] = num_examples
  return rows


def distances(params) -> dict:
  """Compare the first half of the lanes with the second, pair by pair.

  sqrt(‖w − w'‖² / (‖w‖² + ‖w'‖²)), from 0 to √2; both twins get the value.
  """
  flat = jnp.concatenate([x.reshape(len(x), -1)
                          for x in jax.tree.leaves(params)], 1)
  one, other = jnp.split(flat, 2)
  squares = lambda x: jnp.sum(x**2, 1)
  total = squares(one) + squares(other)
  found = jnp.sqrt(squares(one - other) / total)
  return {'distance': jnp.concatenate([found, found])}
