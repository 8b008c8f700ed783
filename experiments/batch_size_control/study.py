"""The study of `batch_size_control`: its parts, and what becomes of them."""

from experiments.batch_size_control import analysis
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
  figures = {'control': 'experiments.batch_size_control.figures:control'}
  task = 'experiments.batch_size_control.task:Task'
  reduce = staticmethod(analysis.reduce)
  claims = staticmethod(analysis.claims)
  tables = staticmethod(analysis.tables)

  def stages(self, config, task, done):
    """Yield all runs at once: the fixed sizes, and a part for each control.

    A controller decides for one run, so that its seeds cannot be lanes.
    """
    common = config.pick('dataset', 'image_size', 'model', 'model_options',
                         'learning_rate', 'steps', 'decay')
    first, most = config.batch_sizes[0], config.batch_sizes[-1]

    def part(name, seeds, schedule, size, arm=None, **defined_by):
      return Trained(
        name, {'seed': tuple(seeds)},
        lambda lanes: task.program(lanes, size, arm), schedule,
        workers=config.workers(),
        defined_by=common | {'batch_size': size} | defined_by | (
          {'arm': arm} if arm else {}))

    fixed = config.schedule(config.steps, config.steps // config.num_records)
    # In batches of the first size, with a look at each of the largest.
    steered = config.schedule(config.most_examples // first, most // first)
    yield [
      *(part(f'fixed_{size}', config.seeds, fixed, size)
        for size in config.batch_sizes),
      *(part(f'{arm}_{seed}', [seed], steered, first, arm, most=most)
        for arm in analysis.ARMS for seed in config.seeds)]

  def summarize(self, config, reduced):
    """Return the mean over the seeds of all that was measured."""
    return reduced.drop_dims('step').mean('seed').to_dict()
