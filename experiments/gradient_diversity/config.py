"""The flags of `gradient_diversity`."""

import dataclasses

from experiments.common import flags
from experiments.common.flags import flag


@dataclasses.dataclass(frozen=True)
class Config(flags.Config):
  """The flags of this experiment."""

  study: str = flag('batches', "'batches' or 'mechanisms'")
  num_seeds: int = flag(4, 'independent runs of each setting')
  model_options: str = flag('{"hidden": [32]}', 'sizes of the model, as JSON')
  image_size: int = flag(0, 'scale and crop images to this; needed where '
                         'they differ in size')
  train_examples: int = flag(1024, 'how many examples to train on')
  batch_sizes: tuple[int, ...] = flag(
    (16, 32, 64, 128, 256, 512, 1024), 'total over the workers; each divides '
    'train_examples; the first is what the others are compared to')
  replications: tuple[float, ...] = flag(
    (1.0, 2.0, 4.0, 8.0), 'r: a random 1/r of the set, repeated r times')
  learning_rates: tuple[float, ...] = flag(
    (0.1, 0.14, 0.2, 0.28, 0.4, 0.57, 0.8, 1.13, 1.6),
    'the grid, on the mean gradient')
  passes: int = flag(48, 'over the training set, for each run')
  target_loss: float = flag(0.1, 'training loss that `collapse` measures up to')
  reference_batch_size: int = flag(16, 'at which the diversity is tracked')
  decay: float = flag(0.95, 'of the averages of the tracked moments')
  num_twins: int = flag(16, 'pairs of runs for `stability`')
  sampling: str = flag('replacement', "'replacement' (the paper) or 'epoch'")
  label_noise: float = flag(0.0, 'share of the labels to flip')
  augment: bool = flag(False, 'random crops and flips, as usual for CIFAR')
  eval_batch_size: int = flag(1024, 'examples evaluated at once; divides '
                              'train_examples')
  exact: bool = flag(True, 'also compute B_S over the whole set, for the price '
                     'of a forward and backward pass')
  drop_rates: tuple[float, ...] = flag(
    (0.0, 0.2, 0.4, 0.5), 'of `drop_updates`, the first 0; mechanisms')
  noise_stddevs: tuple[float, ...] = flag(
    (0.005, 0.02, 0.05), 'of `add_langevin_noise`; mechanisms')
  num_levels: tuple[int, ...] = flag(
    (1, 4), 'of `quantize_updates`; mechanisms')
  per_example: bool = flag(
    False, 'let mechanisms act on the gradient of each example, not on that of '
    'each worker; slow')
  target_accuracies: tuple[float, ...] = flag(
    (0.9, 0.95, 0.99), 'training accuracy to count the steps to; mechanisms')
  least_steps: int = flag(
    150, 'of a run, where --passes are fewer; mechanisms')
  measured_examples: int = flag(
    256, 'n, of which B_S is measured under each mechanism')
  measured_batches: int = flag(
    400, 'batches of --reference_batch_size that it is measured on')
  bits_workers: int = flag(8, 'of the comparison of wires')
  bits_seeds: int = flag(16, 'of the comparison of wires')

  def __post_init__(self):
    super().__post_init__()
    check = flags.check
    check(self.study, 'study', "'batches' or 'mechanisms'",
          lambda study: study in ('batches', 'mechanisms'))
    # Only passes are counted in passes.
    whole = self.train_examples if self.study == 'batches' else 0
    check(self.batch_sizes, 'batch_sizes', 'rising' + (
      f', divisors of --train_examples={whole}' if whole else ''),
      lambda sizes: sizes == tuple(sorted(sizes)) and all(
        b > 0 and whole % b == 0 for b in sizes))
    check(self.reference_batch_size, 'reference_batch_size',
          'one of --batch_sizes', lambda b: b in self.batch_sizes)
    workers = self.num_workers
    check(self.reference_batch_size, 'reference_batch_size',
          f'a multiple of --num_workers={workers}', lambda b: b % workers == 0)
    check(self.replications, 'replications', 'at least 1 each, the first 1',
          lambda rs: rs[:1] == (1,) and all(r >= 1 for r in rs))
    check(self.learning_rates, 'learning_rates', 'positive',
          lambda rates: rates and all(rate > 0 for rate in rates))
    check(self.passes, 'passes', 'at least 2', lambda p: p >= 2)
    check(self.image_size, 'image_size', 'at least 0', lambda n: n >= 0)
    check(self.eval_batch_size, 'eval_batch_size', f'a divisor of '
          f'--train_examples={self.train_examples}, or larger',
          lambda b: b > 0 and self.train_examples % min(
            b, self.train_examples) == 0)
    check(self.num_twins, 'num_twins', 'at least 1', lambda n: n >= 1)
    check(self.target_loss, 'target_loss', 'positive', lambda x: x > 0)
    check(self.sampling, 'sampling', "'replacement' or 'epoch'",
          lambda s: s in ('replacement', 'epoch'))
    if self.study == 'mechanisms':
      self._check_mechanisms()

  def _check_mechanisms(self):
    check, workers = flags.check, self.num_workers
    check(self.batch_sizes, 'batch_sizes', f'multiples of --num_workers='
          f'{workers}', lambda sizes: all(b % workers == 0 for b in sizes))
    check(self.batch_sizes, 'batch_sizes', 'a multiple of --bits_workers='
          f'{self.bits_workers} first',
          lambda sizes: sizes[0] % self.bits_workers == 0)
    check(self.drop_rates, 'drop_rates', 'from 0 to below 1, the first 0',
          lambda ps: ps[:1] == (0,) and all(0 <= p < 1 for p in ps))
    check(self.noise_stddevs, 'noise_stddevs', 'positive',
          lambda sigmas: all(s > 0 for s in sigmas))
    check(self.num_levels, 'num_levels', 'at least 1 each',
          lambda levels: all(s >= 1 for s in levels))
    check(self.target_accuracies, 'target_accuracies', 'shares, rising',
          lambda shares: shares and list(shares) == sorted(shares) and all(
            0 < share <= 1 for share in shares))
    for name in ('least_steps', 'bits_workers', 'bits_seeds'):
      check(getattr(self, name), name, 'at least 1', lambda n: n >= 1)
    check(self.measured_batches, 'measured_batches', 'at least 2',
          lambda n: n >= 2)
    check(self.measured_examples, 'measured_examples', 'from 2 to '
          f'--train_examples={self.train_examples}',
          lambda n: 2 <= n <= self.train_examples)
