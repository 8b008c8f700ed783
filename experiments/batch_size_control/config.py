"""The flags of `batch_size_control`."""

import dataclasses

from experiments.common import checks, flags
from experiments.common.flags import flag

FIRST_HELD_OUT = 100  # seeds that lengths are chosen on, beside --seed


@dataclasses.dataclass(frozen=True)
class Config(flags.Config):
  """The flags of this experiment."""

  num_seeds: int = flag(8, 'independent runs of each setting')
  num_held_out: int = flag(8, 'further runs, which choose the lengths')
  model_options: str = flag('{"hidden": [32]}', 'sizes of the model, as JSON')
  batch_sizes: tuple[int, ...] = flag(
    (16, 32, 64, 128, 512), 'fixed ones, rising by powers of two; controllers '
    'begin at the first and end at the last')
  learning_rate: float = flag(0.4, 'for the first batch size')
  lengths: tuple[int, ...] = flag(
    (500, 625, 800), 'scale-invariant iterations that are tried, rising: steps '
    'of the first batch size; for others, the sum of the gains. The lowest '
    'loss after the first is the one to reach')
  most_mean_batch: int = flag(
    64, 'examples that a controlled run may take, over its length')
  decay: float = flag(0.9, 'of the average that the gain is computed from')
  record_steps: int = flag(25, 'between two records of a fixed batch size; '
                           'all lengths are multiples of it')

  def __post_init__(self):
    super().__post_init__()
    check, sizes = flags.check, self.batch_sizes
    check(sizes, 'batch_sizes', 'rising by powers of two, and multiples of '
          f'--num_workers={self.num_workers}', lambda sizes: len(
            sizes) > 1 and sizes[0] % self.num_workers == 0 and all(
              b > a and b % a == 0 and (b // a).bit_count() == 1
              for a, b in zip(sizes, sizes[1:])))
    check(self.num_workers, 'num_workers', 'at least 2', lambda n: n > 1)
    check(self.num_seeds, 'num_seeds', f'at most {FIRST_HELD_OUT}, as further '
          'seeds choose the lengths', lambda n: n <= FIRST_HELD_OUT)
    checks.at_least(self, 1, 'num_held_out', 'record_steps', 'most_mean_batch')
    check(self.learning_rate, 'learning_rate', 'positive', lambda x: x > 0)
    check(self.decay, 'decay', 'between 0 and 1', lambda x: 0 < x < 1)
    check(self.lengths, 'lengths', 'rising multiples of --record_steps='
          f'{self.record_steps}', lambda x: checks.is_rising(
            x, above=0, count=1) and all(n % self.record_steps == 0 for n in x))

  @property
  def held_out(self) -> range:
    """The seeds that choose the lengths."""
    first = self.seed + FIRST_HELD_OUT
    return range(first, first + self.num_held_out)

  def most_examples(self, length: int) -> int:
    """Count what a controlled run may take: a multiple of the largest batch."""
    largest = self.batch_sizes[-1]
    return -(-self.most_mean_batch * length // largest) * largest
