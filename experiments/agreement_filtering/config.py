"""The flags of `agreement_filtering`."""

import dataclasses

from experiments.common import checks, flags
from experiments.common.flags import flag

# The ways to filter that `gradiv.weightings.agreement` knows.
COMBINES = ('running_mean', 'halving', 'first', 'leave_one_out')
# The filter that the controls go with.
FILTER = 'running_mean'


@dataclasses.dataclass(frozen=True)
class Config(flags.Config):
  """The flags of this experiment."""

  num_workers: int = flag(4, 'k, micro-batches of a step')
  num_seeds: int = flag(8, 'independent runs of each setting')
  per_class: int = flag(1, 'm, examples of each class in a micro-batch')
  model_options: str = flag('{"hidden": [64]}', 'sizes of the model, as JSON')
  train_examples: int = flag(0, 'how many to train on, the first that are not '
                             'held out; 0: all')
  noise_rates: tuple[float, ...] = flag(
    (0.0, 0.2, 0.4, 0.6), 'shares of the labels to flip to another class')
  noisy_label_key: str = flag('', 'the label of TFDS to train on, where a set '
                              'comes with noise of its own; --noise_rates is '
                              'then 0')
  combines: tuple[str, ...] = flag(
    COMBINES, 'ways to filter, running_mean among them; of two micro-batches '
    'all are the same', COMBINES)
  thresholds: tuple[float, ...] = flag(
    (0.9, 0.97, 1.0), 'largest cosine distances, for each way to filter')
  control_threshold: float = flag(0.9, 'the one that the controls go with')
  learning_rates: tuple[float, ...] = flag(
    (0.003, 0.01, 0.03), 'the grid, rising, for each arm')
  momentum: float = flag(0.9, "Nesterov's")
  weight_decay: float = flag(5e-4, 'added to the gradient behind the filter')
  steps: int = flag(1000, 'of each run, skipped ones included')
  num_records: int = flag(10, 'along a run; divides steps')
  validation_examples: int = flag(288, 'held out of the training set')
  augment: bool = flag(False, 'random crops and flips, as usual for CIFAR')
  eval_batch_size: int = flag(1024, 'examples evaluated at once')

  def __post_init__(self):
    super().__post_init__()
    check = flags.check
    checks.at_least(self, 2, 'num_workers')
    checks.at_least(
      self, 1, 'per_class', 'validation_examples', 'eval_batch_size')
    checks.at_least(self, 0, 'train_examples', 'weight_decay')
    check(self.noise_rates, 'noise_rates', 'shares from 0 to 1, rising',
          lambda rates: checks.is_rising(rates) and rates[0] >= 0
          and rates[-1] <= 1)
    if self.noisy_label_key:
      check(self.noise_rates, 'noise_rates', '0 alone with --noisy_label_key',
            lambda rates: rates == (0,))
    check(self.combines, 'combines', f'some of {", ".join(COMBINES)}, '
          f'{FILTER} among them', lambda names: FILTER in names)
    check(self.thresholds, 'thresholds', 'cosine distances from 0 to 2',
          lambda taus: taus and all(0 <= tau <= 2 for tau in taus))
    check(self.control_threshold, 'control_threshold', 'one of --thresholds',
          lambda tau: tau in self.thresholds)
    check(self.learning_rates, 'learning_rates', 'positive and rising',
          lambda rates: checks.is_rising(rates, above=0))
    check(self.momentum, 'momentum', 'from 0 to below 1',
          lambda beta: 0 <= beta < 1)
    check(self.num_records, 'num_records', f'a divisor of --steps={self.steps}',
          lambda n: n >= 1 and self.steps >= n and self.steps % n == 0)

  @property
  def every(self) -> int:
    """Count the steps between two records."""
    return self.steps // self.num_records

  def check_examples(self, count: int) -> None:
    """Check the sizes of the splits against the number of examples."""
    flags.check(
      self.validation_examples, 'validation_examples',
      f'below the {count} of {self.dataset}', lambda n: n < count)
    kept = count - self.validation_examples
    flags.check(
      self.train_examples, 'train_examples', f'at most the {kept} of '
      f'{self.dataset} that are not held out', lambda n: n <= kept)
