"""The study of `agreement_filtering`: its parts, and what becomes of them."""

from experiments.agreement_filtering import analysis, arms, claims, tables
from experiments.agreement_filtering.config import FILTER
from experiments.common import results, study
from experiments.common.parts import Trained


class Filtering(study.Study):
  """Chaubard et al. 2024."""

  name = 'agreement_filtering'
  title = 'Chaubard et al. 2024: gradient agreement filtering'
  link = 'https://arxiv.org/abs/2412.18052'
  command = 'make agreement'
  sentence = ('At one learning rate for all, filtering by agreement makes '
              'up for wrong labels as in the paper; over the mean with as '
              'many updates, or with everything tuned, we could resolve no '
              'gain.')
  setup = ('An MLP on 1,149 digits, of which a share of the labels is wrong: 4 '
           'micro-batches of 10, balanced by class. Rates and thresholds are '
           'tuned on 288 held-out examples. Size, number of steps and weight '
           'decay (5e-4) are chosen so that the mean memorizes wrong labels. '
           "The paper's released scripts differ from its text: the micro-batch "
           'is fixed at 100 examples there, and their adaptive threshold never '
           'switches on for three or more examples a class.')
  pictures = {'agreement': 'What filtering gains over the mean, and over three '
              'controls'}
  figures = {name: f'experiments.agreement_filtering.figures:{name}' for name in
             ('agreement', 'accuracy', 'distances', 'thresholds')}

  task = 'experiments.agreement_filtering.task:Task'
  reduce = staticmethod(analysis.reduce)
  summarize = staticmethod(analysis.summarize)
  claims = staticmethod(claims.claims)
  tables = staticmethod(tables.tables)

  def stages(self, config, task, done):
    """Yield the arms that stand alone; then those that copy the filter."""
    every = arms.list_arms(config)
    yield [self.part(config, task, arm) for arm in every if not arm.partner]
    sizes = results.lookup(
      analysis.let_through(done[FILTER], config.control_threshold),
      'noise', 'rate', 'seed', rest=('stage', 'count'))
    yield [self.part(config, task, arm, sizes)
           for arm in every if arm.partner]

  def part(self, config, task, arm, sizes=None):
    """Make the part of an arm; `sizes` is what the filter let through."""
    def copied(at):
      if sizes is None:
        return {}
      found = sizes[at['noise'], at['rate'], at['seed']]
      return {'sizes': found.astype(int).tolist()}

    return Trained(
      arm.name,
      {'noise': config.noise_rates, 'threshold': arm.thresholds,
       'rate': config.learning_rates, 'seed': tuple(config.seeds)},
      lambda lanes: task.program(arm, lanes),
      config.schedule(config.steps, config.every),
      workers=config.workers(),
      defined_by=config.pick(
        'dataset', 'image_size', 'noisy_label_key', 'train_examples',
        'validation_examples', 'augment', 'model', 'model_options',
        'per_class', 'momentum', 'weight_decay') | {
          'split_seed': config.seed, 'arm': arm.name},
      also=copied, dims={'sizes': ('count',)},
      finish=None if task is None else task.finish)
