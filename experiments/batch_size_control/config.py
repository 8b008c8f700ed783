"""The flags of `batch_size_control`."""

import dataclasses

from experiments.common import flags
from experiments.common.flags import flag


@dataclasses.dataclass(frozen=True)
class Config(flags.Config):
  """The flags of this experiment."""

  num_seeds: int = flag(8, 'independent runs of each setting')
  model_options: str = flag('{"hidden": [32]}', 'sizes of the model, as JSON')
  batch_sizes: tuple[int, ...] = flag(
    (16, 32, 128, 512), 'fixed ones, rising by powers of two; controllers '
    'begin at the first and end at the last')
  learning_rate: float = flag(0.4, 'for the first batch size')
  steps: int = flag(500, 'of the first batch size; for others, the sum of the '
                    'gains')
  most_examples: int = flag(32_768, 'that a controlled run may take')
  decay: float = flag(0.9, 'of the average that the gain is computed from')
  num_records: int = flag(50, 'along a run of fixed batch size; divides steps')

  def __post_init__(self):
    super().__post_init__()
    check, sizes = flags.check, self.batch_sizes
    check(sizes, 'batch_sizes', 'rising by powers of two, and multiples of '
          f'--num_workers={self.num_workers}', lambda sizes: len(
            sizes) > 1 and sizes[0] % self.num_workers == 0 and all(
              b > a and b % a == 0 and (b // a).bit_count() == 1
              for a, b in zip(sizes, sizes[1:])))
    check(self.num_workers, 'num_workers', 'at least 2', lambda n: n > 1)
    check(self.learning_rate, 'learning_rate', 'positive', lambda x: x > 0)
    check(self.decay, 'decay', 'between 0 and 1', lambda x: 0 < x < 1)
    check(self.num_records, 'num_records', f'a divisor of --steps={self.steps}',
          lambda n: n >= 1 and self.steps >= n and self.steps % n == 0)
    check(self.most_examples, 'most_examples', 'a positive multiple of the '
          f'largest batch size, {sizes[-1]}',
          lambda n: n > 0 and n % sizes[-1] == 0)
