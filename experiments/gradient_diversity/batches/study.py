"""The study of batch sizes: its parts, and what becomes of them."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments.common import results, study
from experiments.common.parts import Trained
from experiments.gradient_diversity import tracking
from experiments.gradient_diversity.batches import (
  analysis,
  claims,
  figures,
  summary,
  tables,
)


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

  task = 'experiments.gradient_diversity.task:Problem'
  reduce = staticmethod(analysis.reduce)
  summarize = staticmethod(summary.summarize)
  claims = staticmethod(claims.claims)
  tables = staticmethod(tables.tables)

  def stages(self, config, task, done):
    """Yield the sweep; then what is trained at the rates that it chose."""
    seeds, rs = tuple(config.seeds), config.replications
    yield [part(config, task, 'sweep', size, {
      'replication': rs, 'rate': config.learning_rates, 'seed': seeds})
      for size in config.batch_sizes]
    rates = results.lookup(
      analysis.tuned_rates(config, done), 'replication', 'batch')
    tuned = lambda at, size: {
      'rate': float(rates[at.get('replication', 1), size])}
    tracked = part(
      config, task, 'diversity', config.reference_batch_size,
      {'replication': rs, 'seed': seeds}, tuned, looks=config.looks,
      num_workers=config.num_workers, defined_by=('decay', 'exact'),
      optimizer=functools.partial(
        tracking.tracked_sgd, config=config,
        batch_size=config.reference_batch_size),
      also=lambda: {
        'gradient': task.measured_gradient,
        'read': tracking.read,
        'evaluate': task.evaluate_exactly if config.exact else task.evaluate})
    small = config.batch_sizes[0]
    followed = [part(
      config, task, 'diversity', small, {'seed': seeds}, tuned,
      looks=config.train_examples, passes=config.small_passes,
      num_workers=config.num_workers, defined_by=('decay',),
      optimizer=functools.partial(
        tracking.tracked_sgd, config=config, batch_size=small),
      also=lambda: {
        'gradient': task.measured_gradient, 'read': tracking.read,
        'evaluate': task.evaluate_whole})] if config.tracks_small else []
    twins = tuple(range(config.seed, config.seed + config.num_twins))
    yield [tracked, *followed, *(part(
      config, task, 'stability', size, {'half': (0, 1), 'seed': twins}, tuned,
      also=lambda: {'compare': distances}) for size in config.batch_sizes)]


def part(config, task, kind, size, axes, rate=lambda at, size: {}, *, looks=1,
         passes=None, num_workers=1, defined_by=(),
         optimizer=tracking.plain_sgd, also=dict) -> Trained:
  """Train lanes on batches of one size.

  Args:
    config: The flags.
    task: The data and the network.
    kind: Names the part, with the size.
    size: Of the batches.
    axes: Of the lanes.
    rate: (lane, size) -> the rate of a lane, where it is no axis.
    looks: Records a pass, at most.
    passes: Over the training set; by default --passes.
    num_workers: Who share a batch.
    defined_by: Names of the flags that the numbers depend on, beside the task.
    optimizer: Takes a lane and `axis_name`.
    also: () -> what else `task.program` takes.
  """
  workers = config.workers(num_workers)

  def program(lanes):
    seed = lanes['seed']
    rows = (twin_rows(task, lanes['half'], seed) if 'half' in lanes else
            rows_of(task, lanes.get('replication', np.ones(len(seed))), seed))
    return task.program(
      lanes | {'rows': rows}, size, functools.partial(
        optimizer, axis_name=workers.axis_name), counts_left_out=True,
      **also())

  return Trained(
    analysis.part_of(kind, size), axes, program,
    schedule(config, size, looks, passes or config.passes),
    workers=workers, defined_by=config.pick_task(*defined_by) | {
      'batch_size': size}, also=lambda at: rate(at, size))


def schedule(config, size: int, looks: int, passes: int):
  """Train for some passes, with up to `looks` records a pass."""
  steps = config.train_examples // size
  return config.schedule(passes * steps, steps // math.gcd(steps, looks))


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
