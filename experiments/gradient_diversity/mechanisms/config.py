"""The flags of `gradient_diversity --study=mechanisms`."""

import dataclasses
import math

from experiments.common import checks, flags
from experiments.common.flags import flag
from experiments.gradient_diversity.config import Shared


@dataclasses.dataclass(frozen=True)
class Config(Shared):
  """The flags of the study of masks, noise, rounding and wires."""

  drop_rates: tuple[float, ...] = flag(
    (0.0, 0.2, 0.4, 0.5), 'shares of the entries of a gradient to drop; the '
    'first is 0, the plain mean')
  noise_stddevs: tuple[float, ...] = flag(
    (0.005, 0.02, 0.05), 'standard deviations of the noise on gradients')
  num_levels: tuple[int, ...] = flag(
    (1, 4), 'levels to which gradients are rounded at random')
  per_example: bool = flag(
    False, 'apply each mechanism to the gradient of each example, not of each '
    'worker; slow')
  target_accuracies: tuple[float, ...] = flag(
    (0.9, 0.95, 0.99), 'training accuracies to count the steps to; the middle '
    'one is judged and drawn')
  least_steps: int = flag(
    150, 'least number of steps of a run, where --passes would give fewer')
  measured_examples: int = flag(
    256, 'examples whose B_S is measured under each mechanism')
  measured_batches: int = flag(
    400, 'batches of --reference_batch_size to measure B_S on, for each '
    'setting and seed')
  bits_workers: int = flag(8, 'workers in the comparison of wires')
  bits_seeds: int = flag(16, 'independent runs of each wire')

  def __post_init__(self):
    super().__post_init__()
    check, workers = flags.check, self.num_workers
    check(self.batch_sizes, 'batch_sizes', f'multiples of --num_workers='
          f'{workers}', lambda sizes: all(b % workers == 0 for b in sizes))
    check(self.drop_rates, 'drop_rates', 'from 0 to below 1, the first 0',
          lambda ps: ps[:1] == (0,) and all(0 <= p < 1 for p in ps))
    check(self.noise_stddevs, 'noise_stddevs', 'positive, and at least one',
          lambda sigmas: sigmas and all(s > 0 for s in sigmas))
    check(self.num_levels, 'num_levels', 'at least 1 each, and at least one',
          lambda levels: levels and all(s >= 1 for s in levels))
    check(self.target_accuracies, 'target_accuracies', 'shares, rising',
          lambda shares: shares and list(shares) == sorted(shares) and all(
            0 < share <= 1 for share in shares))
    checks.at_least(self, 1, 'least_steps', 'bits_workers', 'bits_seeds')
    checks.at_least(self, 2, 'measured_batches')
    check(self.bits_workers, 'bits_workers', 'a divisor of the first of '
          f'--batch_sizes, {self.batch_sizes[0]}',
          lambda n: self.batch_sizes[0] % n == 0)
    check(self.measured_examples, 'measured_examples', 'from 2 to '
          f'--train_examples={self.train_examples}',
          lambda n: 2 <= n <= self.train_examples)

  @property
  def target(self) -> float:
    """The training accuracy that claims and figures are about."""
    return self.target_accuracies[len(self.target_accuracies) // 2]

  def steps(self, size: int) -> tuple[int, int]:
    """Return the steps at a batch size, and the steps between two records.

    Steps for --passes, and at least --least_steps, rounded up to whole
    records; four records a pass, and at most one a step.
    """
    per_pass = self.train_examples / size
    every = max(1, round(per_pass / 4))
    steps = max(self.least_steps, math.ceil(self.passes * per_pass))
    return -(-steps // every) * every, every
