"""The study of `critical_parameters`: its parts, and what becomes of them."""

import pkgutil

from experiments.common import study
from experiments.common.computed import Computed
from experiments.common.derived import Derived
from experiments.common.parts import Trained
from experiments.critical_parameters import analysis, claims, network, tables

PACKAGE = 'experiments.critical_parameters'
# By simulated study, the flags that its numbers depend on.
_SQUARES = ('dimensions', 'batch_sizes', 'stalenesses')
_TUNED = ('rates_per_octave', 'together', 'max_steps')
SIMULATED = {
  'quadratic': (*_SQUARES, *_TUNED, 'target'),
  'noise': (*_SQUARES, *_TUNED, 'noise_target', 'noise_ratios'),
  'sparse': ('sparse_dimensions', 'supports', 'sparse_stalenesses',
             'sparse_target', 'together', 'max_steps'),
  'rates': (*_SQUARES, 'stable_steps')}


class Critical(study.Study):
  """Stich, Mohtashami, Jaggi 2021."""

  name = 'critical_parameters'
  title = ('Stich, Mohtashami, Jaggi 2021: the critical parameter of batches '
           'and delays')
  link = 'https://arxiv.org/abs/2103.02351'
  command = 'make critical'
  sentence = ('Batch size and delay cost nothing up to one number of the data, '
              'the critical parameter M; sparsity alone does not set the '
              'critical delay.')
  setup = ('We could read the abstract only: we derived the laws, and the '
           'experiments are ours. Least squares, sparse logistic regression '
           'and an MLP on digits, with the rate of each run tuned on the other '
           'runs. The allowed ranges are round numbers that we chose while '
           'building the studies.')
  pictures = {
    'critical': 'Steps by batch size and delay, and the curve onto which all '
    'fall', 'critical_network': 'Four measures of the critical parameter of a '
    'network', 'sparse': 'The critical delay by sparsity and by M'}
  figures = {
    'critical': f'{PACKAGE}.figures:critical',
    'critical_steps': f'{PACKAGE}.figures:steps',
    'noise': f'{PACKAGE}.figures:noise', 'rates': f'{PACKAGE}.figures:rates',
    'sparse': f'{PACKAGE}.data_figures:sparse',
    'critical_network': f'{PACKAGE}.data_figures:network',
    'critical_course': f'{PACKAGE}.data_figures:course'}
  task = 'experiments.critical_parameters.task:Task'
  reduce = staticmethod(analysis.reduce)
  summarize = staticmethod(analysis.summarize)
  claims = staticmethod(claims.claims)
  tables = staticmethod(tables.tables)

  def prepare(self, config):
    """Load the data and build the network, where the study needs them."""
    return super().prepare(config) if 'network' in config.studies else None

  def stages(self, config, task, done):
    """Yield all that stands alone; then the tracked run, at the rates found."""
    alone = [part for name in config.studies if name != 'network'
             for part in self.computed(config, name)]
    if 'network' not in config.studies:
      yield alone
      return
    cells = config.network_cells()
    yield alone + [self.trained(config, task, *cell) for cell in cells]
    rates = network.rates_of(config, done[network.part_name(*cells[0])])
    yield [self.trained(config, task, *cells[0], rates=rates)]

  def computed(self, config, name):
    """Make the part of a study that is simulated, and that of its theory."""
    yield Computed(
      name, lambda stop: pkgutil.resolve_name(f'{PACKAGE}.grids:{name}')(
        config, stop), config.pick('num_seeds', 'seed', *SIMULATED[name]))
    if name in analysis.EXACT:
      exact = analysis.EXACT[name]
      yield Derived(
        exact, f'{PACKAGE}.exact:{exact.removeprefix("exact_")}', (config,),
        defined_by=config.pick(*_SQUARES, 'target'),
        code=[f'{PACKAGE.replace(".", "/")}/theory.py'])

  def trained(self, config, task, batch_size, staleness, rates=None):
    """Make the part of a batch size and a delay of the network.

    With `rates`, by seed, a run is tracked at these rates alone.
    """
    is_tracked = rates is not None
    axes = {} if is_tracked else {'rate': config.network_rates}
    return Trained(
      network.TRACKED if is_tracked else network.part_name(
        batch_size, staleness), axes | {'seed': tuple(config.seeds)},
      lambda lanes: task.program(
        batch_size, staleness, lanes, is_tracked=is_tracked),
      config.schedule(
        config.network_length(batch_size, staleness), config.every),
      workers=config.workers(config.num_workers if is_tracked else 1),
      defined_by=config.pick(
        'dataset', 'image_size', 'train_examples', 'model', 'model_options',
        *(['decay'] if is_tracked else [])) | {
          'batch_size': batch_size, 'staleness': staleness},
      also=lambda at: {'rate': rates[at['seed']]} if is_tracked else {})
