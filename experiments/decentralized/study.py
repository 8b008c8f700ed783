"""The study of `decentralized`: its parts, and what becomes of them."""

from experiments.common import study
from experiments.common.derived import Derived
from experiments.common.parts import Trained
from experiments.decentralized import analysis, claims, tables
from experiments.decentralized.arms import list_arms

# What the numbers of an arm depend on, beside its name and batch size.
IMAGES = ('dataset', 'image_size', 'pixel_scale', 'augment', 'model',
          'model_options', 'warmup_steps', 'rate_cuts')
TEXT = ('text_length', 'text_model_options', 'text_examples', 'warmup_steps',
        'rate_cuts')
OF_LOOKS = ('measure_every', 'measured_examples')


class Decentralized(study.Study):
  """Zhang et al. 2021."""

  name = 'decentralized'
  title = 'Zhang et al. 2021: decentralized SGD at large learning rates'
  link = 'https://arxiv.org/abs/2112.01433'
  command = 'make decentralized'
  sentence = ('DPSGD lowers its effective learning rate early, as the paper '
              'says, and survives rates at which isotropic noise (SSGD*) '
              'does not; whether it does more than SSGD with that effective '
              'rate imposed is open.')
  setup = ('An MLP with 64, 50, 50 and 10 units and no biases, 300 steps of '
           'plain SGD on five workers with 200 digits each. A run succeeds if '
           'its test accuracy exceeds 95 %; of an LSTM on text, if its test '
           'loss falls below 2.6 nats a character. Pixels are divided by 255 '
           'and centered: of the four scales that we tried, the one at which '
           'SSGD stops converging near a rate of 2. Runs at such rates are '
           'chaotic: rounding alone decides single runs. The other graphs '
           "and LAMB have 12 seeds. [The paper's own tables]"
           '(papers/zhang_2021.md).')
  pictures = {'success': 'Runs that succeed, by arm and learning rate',
              'along': 'Effective learning rate, and how far the workers are '
              'apart, along the training'}
  figures = {name: f'experiments.decentralized.figures:{name}'
             for name in ('success', 'along', 'text')}

  task = 'experiments.decentralized.task:of_domains'
  reduce = staticmethod(analysis.reduce)
  summarize = staticmethod(analysis.summarize)
  claims = staticmethod(claims.claims)
  tables = staticmethod(tables.tables)

  def stages(self, config, task, done):
    """Yield all arms but the one that copies DPSGD's rate; then that."""
    arms = list_arms(config)
    mixing = Derived(
      analysis.MIXING, 'experiments.decentralized.optimizers:contractions',
      (config,), defined_by=config.pick(
        'topologies', 'num_workers', 'num_matchings'),
      code=['gradiv/decentralized'])
    yield [mixing, *(self.part(config, task, arm) for arm in arms
                     if arm.name != 'imposed')]
    for arm in arms:
      if arm.name == 'imposed':
        source = next(a for a in arms if a.name == config.main_arm)
        ratio = analysis.imposed_ratio(config, done[source.part])
        yield [self.part(config, task, arm, ratio)]

  def part(self, config, task, arm, ratio=None):
    """Make the part of an arm; `ratio` is what to impose, by rate."""
    depends = list(IMAGES if arm.domain == 'images' else TEXT)
    if arm.topology in ('random', 'random_ring'):
      depends.append('num_matchings')
    if arm.name == 'ssgd_noise':
      depends.append('noise_stddev')
    if arm.is_measured:
      depends += OF_LOOKS
    return Trained(
      arm.part, {'rate': arm.rates, 'seed': arm.seeds},
      lambda lanes: task[arm.domain].program(arm, lanes),
      config.schedule(config.steps_of(arm.domain), config.every(arm.domain)),
      workers=config.workers(arm.num_workers),
      defined_by=config.pick(*depends) | {
        'arm': arm.name, 'batch_size': arm.batch_size},
      also=lambda at: {} if ratio is None else {'ratio': ratio[at['rate']]},
      dims=dict.fromkeys(analysis.MEASURES, ('slot',)))
