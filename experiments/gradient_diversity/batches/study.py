"""The study of batch sizes: its parts, and what becomes of them."""

import math

from experiments.common import results, study
from experiments.common.derived import Derived
from experiments.common.parts import Trained
from experiments.gradient_diversity.batches import (
  analysis,
  claims,
  summary,
  tables,
)

PACKAGE = 'experiments.gradient_diversity.batches'
FOLDER = PACKAGE.replace('.', '/')
CODE = ('gradiv/diversity',)  # what windows and advice come from


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
           'plots. Below, B_S is that of the moment at which the loss reaches '
           'the target. The noise scales in the figure of one curve are '
           'smaller, because they are averages over the steps up to that '
           'moment, and B_S grows along a training.')
  pictures = {
    'collapse': 'Gradients to the target over the fewest, by batch size over '
    'noise scale: all sets on one curve',
    'loss_ratio': 'Loss after equal passes, over that of the smallest batch',
    'diversity': 'The batch-size bound along the training, tracked and exact',
    'stability': 'How far two runs end apart whose sets differ in one example'}
  figures = {name: f'{PACKAGE}.figures:{name}' for name in (
    'collapse', 'loss_ratio', 'diversity', 'stability')}

  task = f'{PACKAGE}.programs:Programs'
  reduce = staticmethod(analysis.reduce)
  summarize = staticmethod(summary.summarize)
  claims = staticmethod(claims.claims)
  tables = staticmethod(tables.tables)

  def stages(self, config, task, done):
    """Yield the sweep; what is trained at the rates that it chose; windows."""
    seeds, rs = tuple(config.seeds), config.replications
    yield [part(
      config, 'sweep', size,
      {'replication': rs, 'rate': config.learning_rates, 'seed': seeds},
      lambda lanes, size=size: task.plain(size, lanes))
      for size in config.batch_sizes]
    rates = results.lookup(
      analysis.best_rates(analysis.losses(config, done)), 'replication',
      'batch')
    tuned = lambda size: lambda at: {
      'rate': float(rates[at.get('replication', 1), size])}
    reference, small = config.reference_batch_size, config.batch_sizes[0]
    tracked = part(
      config, 'diversity', reference, {'replication': rs, 'seed': seeds},
      lambda lanes: task.tracked(reference, lanes, by_layer=True),
      tuned(reference), looks=config.looks, num_workers=config.num_workers,
      defined_by=('decay', 'exact'))
    followed = [part(
      config, 'diversity', small, {'seed': seeds},
      lambda lanes: task.tracked(small, lanes), tuned(small),
      looks=config.train_examples, passes=config.small_passes,
      num_workers=config.num_workers, defined_by=('decay',))
      ] if config.tracks_small else []
    twins = tuple(range(config.seed, config.seed + config.num_twins))
    yield [tracked, *followed, *(part(
      config, 'stability', size, {'half': (0, 1), 'seed': twins},
      lambda lanes, size=size: task.twins(size, lanes), tuned(size))
      for size in config.batch_sizes)]
    bands = [windows_of(
      analysis.BANDS, tracked, analysis.tracked(config, done)), *(
        windows_of(analysis.SMALL_BANDS, made, done[made.name])
        for made in followed)]
    yield bands
    yield [Derived(
      analysis.ADVICE, f'{PACKAGE}.advice:of_first_runs',
      (config, done[analysis.BANDS]), bands[:1],
      config.pick('reference_batch_size'), CODE)]


def part(config, kind, size, axes, program, also=lambda at: {}, *, looks=1,
         passes=None, num_workers=1, defined_by=()) -> Trained:
  """Train lanes on batches of one size.

  Args:
    config: The flags.
    kind: Names the part, with the size.
    size: Of the batches.
    axes: Of the lanes.
    program: Takes the lanes; see `programs`.
    also: lane -> its rate, where that is no axis.
    looks: Records a pass, at most.
    passes: Over the training set; by default --passes.
    num_workers: Who share a batch.
    defined_by: Names of the flags that the numbers depend on, beside the task.
  """
  return Trained(
    analysis.part_of(kind, size), axes, program,
    schedule(config, size, looks, passes or config.passes),
    workers=config.workers(num_workers),
    defined_by=config.pick_task(*defined_by) | {'batch_size': size}, also=also)


def schedule(config, size: int, looks: int, passes: int):
  """Train for some passes, with up to `looks` records a pass."""
  steps = config.train_examples // size
  return config.schedule(passes * steps, steps // math.gcd(steps, looks))


def windows_of(name: str, tracked: Trained, run) -> Derived:
  """Read B_S over windows of what a tracked part has recorded."""
  return Derived(name, f'{PACKAGE}.windows:windowed', (run,), [tracked],
                 code=[*CODE, f'{FOLDER}/analysis.py'])
