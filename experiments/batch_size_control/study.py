"""The study of `batch_size_control`: its parts, and what becomes of them."""

from experiments import engine
from experiments.batch_size_control import analysis, claims, figures, task
from experiments.common import study
from experiments.common.parts import Trained


class BatchSizeControl(study.Study):
  """Controllers of the batch size beside fixed ones."""

  name = 'batch_size_control'
  title = 'McCandlish et al. 2018: batch sizes that follow the noise scale'
  link = 'https://arxiv.org/abs/1812.06162'
  command = 'make control'
  sentence = ('Controllers keep the loss of batch 16 in up to 3 times fewer '
              'steps, with 3 to 6 times fewer gradients than batch 512.')
  setup = ('An MLP on 1,437 digits. All runs take 500 scale-invariant '
           'iterations of AdaScale, with the rate and the cosine schedule of '
           'batch 16. Controllers begin at 16 and may go to 512; they see the '
           'moments of 8 workers, tracked.')
  pictures = {'control': 'The batch sizes that were chosen, and what they cost'}
  figures = {'control': figures.control, 'lengths': figures.lengths}
  prepare = staticmethod(task.Task)
  reduce = staticmethod(analysis.reduce)
  claims = staticmethod(claims.claims)
  tables = staticmethod(analysis.tables)

  def stages(self, config, made, done):
    """Yield all lengths, of held-out seeds; then all seeds, of the chosen ones.

    A controller decides for one run, so that its seeds cannot be lanes.
    """
    make = _Maker(config, made)
    fixed, arms = config.batch_sizes, analysis.ARMS
    yield [*(make.fixed(f'tuning_{size}', size, config.lengths, config.held_out)
             for size in fixed),
           *(make.controlled(arm, length, seed) for arm in arms
             for length in config.lengths for seed in config.held_out)]
    _, chosen = analysis.choose(config, analysis.held_out(config, done))
    yield [*(make.fixed(f'fixed_{size}', size, [chosen[str(size)]],
                        config.seeds) for size in fixed),
           *(make.controlled(arm, chosen[arm], seed) for arm in arms
             for seed in config.seeds)]

  def summarize(self, config, reduced):
    """Return the mean over the seeds of all that was measured."""
    return reduced.drop_dims('step').mean(('seed', 'held_out')).to_dict()


class _Maker:
  """Makes the parts: runs of a fixed batch size, and a run under a control."""

  def __init__(self, config, made):
    self.config, self.made = config, made

  def fixed(self, name, size, lengths, seeds):
    """Make runs of some lengths and seeds; all take the steps of the longest.

    They do not move any more where their length is over.
    """
    return self._part(name, size, lengths, seeds, self.config.schedule(
      max(lengths), self.config.record_steps))

  def controlled(self, arm, length, seed):
    """Make a run; in batches of the first size, it looks at each of the last.
    """
    config = self.config
    first, most = config.batch_sizes[0], config.batch_sizes[-1]
    return self._part(
      f'{arm}_{length}_{seed}', first, [length], [seed], config.schedule(
        config.most_examples(length) // first, most // first),
      engine.Control(task.controller(arm, config), None), arm=arm, most=most)

  def _part(self, name, size, lengths, seeds, schedule, control=None,
            **defined_by):
    config = self.config
    common = config.pick('dataset', 'image_size', 'model', 'model_options',
                         'learning_rate', 'decay')
    return Trained(
      name, {'length': tuple(lengths), 'seed': tuple(seeds)},
      lambda lanes: self.made.program(lanes, size, control), schedule,
      workers=config.workers(),
      defined_by=common | {'batch_size': size} | defined_by)
