"""The flags that the studies of `gradient_diversity` share."""

import dataclasses

from experiments.common import checks, flags
from experiments.common.flags import flag

# The flags that choose the training set and the network.
TASK = ('dataset', 'image_size', 'train_examples', 'label_noise', 'augment',
        'sampling', 'model', 'model_options')


@dataclasses.dataclass(frozen=True)
class Shared(flags.Config):
  """The flags of both studies."""

  study: str = flag('batches', 'which study', ('batches', 'mechanisms'))
  num_seeds: int = flag(4, 'independent runs of each setting')
  model_options: str = flag('{"hidden": [32]}', 'sizes of the model, as JSON')
  train_examples: int = flag(1024, 'examples to train on')
  batch_sizes: tuple[int, ...] = flag(
    (16, 32, 64, 128, 256, 512, 1024), 'batch sizes, rising, each the total '
    'over the workers')
  learning_rates: tuple[float, ...] = flag(
    (0.1, 0.14, 0.2, 0.28, 0.4, 0.57, 0.8, 1.13, 1.6),
    'learning rates to choose from, for the mean gradient')
  passes: int = flag(48, 'passes over the training set in each run')
  reference_batch_size: int = flag(
    16, 'batch size at which the diversity is measured')
  sampling: str = flag('replacement', "how batches are drawn: 'replacement', "
                       "as in the paper, or 'epoch'",
                       ('replacement', 'epoch'))
  label_noise: float = flag(0.0, 'share of the labels to flip')
  augment: bool = flag(False, 'crop and flip images at random, as usual for '
                       'CIFAR')
  eval_batch_size: int = flag(1024, 'examples to evaluate at once; divides '
                              '--train_examples')

  def __post_init__(self):
    super().__post_init__()
    check = flags.check
    checks.at_least(self, 1, 'train_examples', 'eval_batch_size')
    checks.at_least(self, 2, 'passes')
    check(self.batch_sizes, 'batch_sizes', 'positive and rising',
          lambda sizes: checks.is_rising(sizes, above=0))
    flags.check_together(
      self, ('reference_batch_size', 'batch_sizes'),
      'one must be among the others',
      self.reference_batch_size in self.batch_sizes)
    flags.check_together(
      self, ('num_workers', 'reference_batch_size'),
      'workers must share the batch evenly',
      self.reference_batch_size % self.num_workers == 0)
    check(self.learning_rates, 'learning_rates', 'positive',
          lambda rates: rates and all(rate > 0 for rate in rates))
    check(self.label_noise, 'label_noise', 'a share from 0 to 1',
          lambda share: 0 <= share <= 1)
    flags.check_together(
      self, ('train_examples', 'eval_batch_size'),
      '--eval_batch_size must divide it, or be larger',
      self.train_examples % min(
        self.eval_batch_size, self.train_examples) == 0)

  @property
  def in_the_first(self) -> str:
    """Say which of two roundings a cell is of that a claim names."""
    return ' in the first rounding' if self.roundings > 1 else ''

  def check_examples(self, count: int) -> None:
    """Check that one example is left over, for the twins."""
    flags.check(self.train_examples, 'train_examples', f'below the {count} of '
                f'{self.dataset}', lambda n: n < count)

  def pick_task(self, *names: str) -> dict:
    """Pick the flags that define the task, and `names`.

    The first seed is among them: it flips labels.
    """
    return self.pick(*TASK, *names) | {'task_seed': self.seed}
