"""The study of mechanisms: its parts, and what becomes of them."""

import functools

import jax
import numpy as np
import optax

import gradiv
from experiments.common import study
from experiments.common.parts import Trained
from experiments.engine import trainer
from experiments.gradient_diversity import tracking
from experiments.gradient_diversity.mechanisms import (
  analysis,
  arms,
  claims,
  figures,
  measuring,
  tables,
)


class Mechanisms(study.Study):
  """Yin et al. 2018, section 4.4 and Table 1."""

  name = 'mechanisms'
  title = 'Yin et al. 2018: masks, noise and rounding of gradients'
  link = 'https://proceedings.mlr.press/v84/yin18a.html'
  command = 'make mechanisms'
  sentence = ('Masks, noise and rounding raise the batch-size bound B_S as '
              'the formulas say; masks with p = 0.5 do not shorten the time '
              'to a target (p = 0.4 is open), and 8 bits on the wire cost '
              'no accuracy.')
  setup = ('An MLP on 1,024 digits. B_S is measured on the gradients of 256 '
           'examples, two passes into the training. Rates are tuned in every '
           'cell. Time is modeled as steps × (communication + batch / '
           'workers); the paper does not say what communication cost, so that '
           'every price counts at which the best batch of the mean is 256, as '
           'in the paper.')
  pictures = {'bounds': '1/B_S under each mechanism, measured and predicted',
              'rounds': 'Steps and modeled time to 95 % training accuracy, of '
              'the mean and of masks', 'bits': 'Test accuracy by the bits on '
              'the wire'}
  figures = {'bounds': figures.bounds, 'rounds': figures.rounds,
             'bits': figures.bits}

  task = 'experiments.gradient_diversity.task:Problem'
  reduce = staticmethod(analysis.reduce)
  summarize = staticmethod(analysis.summarize)
  claims = staticmethod(claims.claims)
  tables = staticmethod(tables.tables)

  def stages(self, config, task, done):
    """Yield all parts at once: none needs another."""
    del done
    yield [
      reference(config, task),
      *(train_mechanism(config, task, mechanism, size)
        for mechanism in arms.mechanisms(config)
        for size in config.batch_sizes),
      *(train_wire(config, task, wire) for wire in arms.wires())]


def reference(config, task) -> Trained:
  """Train by plain SGD for two passes, then measure B_S of each network."""
  size = config.reference_batch_size
  steps = 2 * config.train_examples // size
  rates = sorted(config.learning_rates)

  return Trained(
    'reference', {'rate': (rates[len(rates) // 2],),
                  'seed': tuple(config.seeds)},
    lambda lanes: _program(config, task, lanes, size, functools.partial(
      tracking.plain_sgd, axis_name=config.workers(1).axis_name)),
    config.schedule(steps, steps), config.workers(1),
    defined_by=config.pick_task(
      'drop_rates', 'noise_stddevs', 'num_levels', 'measured_examples',
      'measured_batches') | {'batch_size': size},
    dims={'sq_norm': ('cell', 'batch'), 'variance': ('cell', 'batch'),
          'predicted': ('cell',)},
    finish=lambda state, lanes: measuring.measure(
      config, task, state['params'], lanes['seed'].tolist()))


def train_mechanism(config, task, mechanism, size) -> Trained:
  """Train all strengths, rates and seeds of a mechanism at one batch size."""
  workers = config.workers()

  def make_optimizer(lane):
    key = trainer.key_for(lane['seed'], 'mechanism')
    before = () if config.per_example else (
      mechanism.make(lane['strength'], key, workers.axis_name),)
    return optax.chain(*before, gradiv.aggregate_by_mean(workers.axis_name),
                       optax.sgd(lane['rate']))

  def of_each_example(lane, params, batch, key):
    """Average what the mechanism makes of each example's gradient."""
    tx = mechanism.make(lane['strength'], key, 'examples')

    def one(example):
      loss, g = jax.value_and_grad(task.loss)(
        params, jax.tree.map(lambda x: x[None], example),
        gradiv.worker_key(key, 'examples'))
      return loss, tx.update(g, tx.init(g))[0]

    return jax.tree.map(
      lambda x: x.mean(0), jax.vmap(one, axis_name='examples')(batch))

  return Trained(
    analysis.part(mechanism, size),
    {'strength': mechanism.strengths, 'rate': config.learning_rates,
     'seed': tuple(config.seeds)},
    lambda lanes: _program(
      config, task, lanes, size, make_optimizer,
      gradient=of_each_example if config.per_example else None),
    config.schedule(*config.steps(size)), workers,
    defined_by=config.pick_task('per_example') | {
      'mechanism': mechanism.name, 'batch_size': size})


def train_wire(config, task, wire) -> Trained:
  """Train all rates and seeds on a wire; then read the test set."""
  size = config.batch_sizes[0]
  workers = config.workers(config.bits_workers)

  def make_optimizer(lane):
    key = trainer.key_for(lane['seed'], 'wire')
    return optax.chain(wire.make(key, workers.axis_name),
                       optax.sgd(lane['rate']))

  def finish(state, lanes):
    shapes = [x.shape[1:] for x in jax.tree.leaves(state['params'])]
    bits = wire.bits(shapes, config.bits_workers)
    return {'test': task.test_accuracy(state['params']),
            'bits': np.full(len(lanes['seed']), bits)}

  return Trained(
    analysis.part(wire), {'rate': config.learning_rates,
                          'seed': tuple(range(
                            config.seed, config.seed + config.bits_seeds))},
    lambda lanes: _program(
      config, task, lanes, size, make_optimizer,
      private=('opt_state',) if wire.feeds_back else ()),
    config.schedule(*config.steps(size)), workers,
    defined_by=config.pick_task() | {
      'wire': wire.name, 'batch_size': size},
    finish=finish)


def _program(config, task, lanes, size, make_optimizer, **rest):
  """Train lanes on the training set as it is, in one order for all."""
  rows = np.tile(task.rows(1, config.seed), (len(lanes['seed']), 1))
  return task.program(
    lanes | {'rows': rows}, size, make_optimizer, **rest)
