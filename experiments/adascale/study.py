"""The study of `adascale`: its parts, and what becomes of them."""

from experiments.adascale import analysis
from experiments.common import study
from experiments.common.derived import Derived
from experiments.common.parts import Trained


class AdaScale(study.Study):
  """Johnson et al. 2020."""

  name = 'adascale'
  title = 'Johnson et al. 2020: AdaScale SGD'
  link = 'https://arxiv.org/abs/2007.05105'
  command = 'make adascale'
  sentence = ('AdaScale keeps loss and accuracy where linear and square-root '
              'scaling lose them.')
  setup = ('An MLP on 1,437 digits, 16 a worker, along a cosine schedule. The '
           'rate is tuned for one worker and is the same in all arms. We did '
           'not read the paper, and quote none of its numbers.')
  pictures = {'scaling': 'The loss and the steps of AdaScale and its controls'}
  figures = {'scaling': 'experiments.adascale.figures:scaling'}
  task = 'experiments.adascale.task:Task'
  reduce = staticmethod(analysis.reduce)
  claims = staticmethod(analysis.claims)
  tables = staticmethod(analysis.tables)

  def stages(self, config, task, done):
    """Yield the small batch; all scales at its rate; then their mean gains."""
    def part(name, scale, rates, **gains):  # each a function of the seed
      return Trained(
        name, {'arm': tuple(gains), 'rate': rates, 'seed': tuple(config.seeds)},
        lambda lanes: task.program(scale, lanes),
        config.schedule(config.steps, config.steps // config.num_records),
        workers=config.workers(scale),
        also=lambda at: {'gain': float(gains[at['arm']](at['seed'])),
                         'power': 0.5 if at['arm'] == 'root' else 1.0},
        defined_by=config.pick('dataset', 'image_size', 'model',
                               'model_options', 'batch_size', 'window'))

    base = part('base', 1, config.learning_rates, base=lambda seed: 1)
    yield [base]
    rates = analysis.best_rate(done['base']),
    gains = Derived(
      analysis.GAINS, 'experiments.adascale.task:exact_gains',
      (config, analysis.small_batch(done)), [base],
      config.pick('batch_size', 'scales'), ['gradiv/diversity'])
    yield [gains, *(part(
      f'scale_{s}', s, rates, adascale=lambda seed: 0, identity=lambda seed: 1,
      linear=lambda seed, s=s: s, root=lambda seed, s=s: s)
      for s in config.scales)]
    yield [part(f'constant_{s}', s, rates,
                constant=analysis.mean_gain(config, done[f'scale_{s}']))
           for s in config.scales]

  def summarize(self, config, reduced):
    """Return the mean over the seeds of all that was measured."""
    return reduced.mean('seed').to_dict()
