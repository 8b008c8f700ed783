"""The study of mechanisms: its parts, and what becomes of them."""

from experiments.common import study
from experiments.common.parts import Trained
from experiments.gradient_diversity.mechanisms import (
  analysis,
  arms,
  claims,
  tables,
)

PACKAGE = 'experiments.gradient_diversity.mechanisms'


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
  figures = {name: f'{PACKAGE}.figures:{name}'
             for name in ('bounds', 'rounds', 'bits')}

  task = f'{PACKAGE}.programs:Programs'
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
    lambda lanes: task.plain(lanes, size),
    config.schedule(steps, steps), config.workers(1),
    defined_by=config.pick_task(
      'drop_rates', 'noise_stddevs', 'num_levels', 'measured_examples',
      'measured_batches') | {'batch_size': size},
    dims={'sq_norm': ('cell', 'batch'), 'variance': ('cell', 'batch'),
          'predicted': ('cell',)},
    finish=lambda state, lanes: task.measure(state['params'], lanes['seed']))


def train_mechanism(config, task, mechanism, size) -> Trained:
  """Train all strengths, rates and seeds of a mechanism at one batch size."""
  return Trained(
    analysis.part(mechanism, size),
    {'strength': mechanism.strengths, 'rate': config.learning_rates,
     'seed': tuple(config.seeds)},
    lambda lanes: task.under(mechanism, lanes, size),
    config.schedule(*config.steps(size)), config.workers(),
    defined_by=config.pick_task('per_example') | {
      'mechanism': mechanism.name, 'batch_size': size})


def train_wire(config, task, wire) -> Trained:
  """Train all rates and seeds on a wire; then read the test set."""
  size = config.batch_sizes[0]
  seeds = tuple(range(config.seed, config.seed + config.bits_seeds))
  return Trained(
    analysis.part(wire), {'rate': config.learning_rates, 'seed': seeds},
    lambda lanes: task.over(wire, lanes, size),
    config.schedule(*config.steps(size)), config.workers(config.bits_workers),
    defined_by=config.pick_task() | {
      'wire': wire.name, 'batch_size': size},
    finish=lambda state, lanes: task.read_wire(wire, state['params']))
