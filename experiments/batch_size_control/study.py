"""The study of `batch_size_control`: its parts, and what becomes of them."""

from experiments.batch_size_control import analysis, claims
from experiments.common import study
from experiments.common.parts import Trained


class BatchSizeControl(study.Study):
  """Controllers of the batch size beside fixed ones."""

  name = 'batch_size_control'
  title = 'McCandlish et al. 2018: batch sizes that follow the noise scale'
  link = 'https://arxiv.org/abs/1812.06162'
  command = 'make control'
  sentence = ('To the loss of batch 512, controllers that begin at 16 take '
              '1.4 to 3.7 times fewer steps than batch 16, and 3 to 5 times '
              'fewer gradients than batch 512. The best fixed batch for as '
              'many gradients takes about as many steps, to 10 %.')
  setup = ('An MLP on 1,437 digits, with the learning rate of batch 16, the '
           'gain of AdaScale and a cosine schedule. Controllers begin at 16 '
           'and may go to 512; they see the moments of 8 workers, tracked. '
           'Steps and gradients are compared at one loss, that of the best '
           'fixed batch after 500 scale-invariant iterations. Each arm runs as '
           'long as it took to that loss on 8 other seeds, of 500, 625 and 800 '
           'iterations, between which we interpolate.')
  pictures = {
    'control': 'The batch sizes that were chosen, and what one loss costs',
    'lengths': 'The loss after runs of several lengths, against their steps '
               'and gradients'}
  figures = {name: f'experiments.batch_size_control.figures:{name}'
             for name in ('control', 'lengths')}
  task = 'experiments.batch_size_control.task:Task'
  reduce = staticmethod(analysis.reduce)
  claims = staticmethod(claims.claims)
  tables = staticmethod(analysis.tables)

  def stages(self, config, task, done):
    """Yield all lengths, of held-out seeds; then all seeds, of the chosen ones.
    """
    make = _Maker(config, task)
    yield [part for length in config.lengths for part in make.parts(
      'tuning', lambda arm, length=length: length, config.held_out)]
    _, chosen = analysis.choose(config, analysis.held_out(config, done))
    yield list(make.parts('final', chosen.get, config.seeds))

  def summarize(self, config, reduced):
    """Return the mean over the seeds of all that was measured."""
    return reduced.drop_dims('step').mean(('seed', 'held_out')).to_dict()


class _Maker:
  """Makes the parts: all seeds of a fixed batch size, or a run under a control.

  A controller decides for one run, so that its seeds cannot be lanes.
  """

  def __init__(self, config, task):
    self.config, self.task = config, task

  def parts(self, stage, length_of, seeds):
    """Yield the runs of all arms, each of a length, on some seeds."""
    for size in self.config.batch_sizes:
      yield self._fixed(stage, size, length_of(str(size)), seeds)
    for arm in analysis.ARMS:
      for seed in seeds:
        yield self._controlled(stage, arm, length_of(arm), seed)

  def _fixed(self, stage, size, length, seeds):
    return self._part(f'{stage}_{size}_{length}', size, length, seeds,
                      self.config.schedule(length, self.config.record_steps))

  def _controlled(self, stage, arm, length, seed):
    """Count in batches of the first size, with a look at each of the last.
    """
    config = self.config
    first, most = config.batch_sizes[0], config.batch_sizes[-1]
    return self._part(
      f'{stage}_{arm}_{length}_{seed}', first, length, [seed], config.schedule(
        config.most_examples(length) // first, most // first),
      arm, most=most)

  def _part(self, name, size, length, seeds, schedule, arm=None,
            **defined_by):
    common = self.config.pick('dataset', 'image_size', 'model', 'model_options',
                              'learning_rate', 'decay')
    return Trained(
      name, {'length': (length,), 'seed': tuple(seeds)},
      lambda lanes: self.task.program(lanes, size, arm), schedule,
      workers=self.config.workers(),
      defined_by=common | {'batch_size': size} | defined_by | (
        {'arm': arm} if arm else {}))
