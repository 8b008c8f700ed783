"""The flags of `critical_parameters`."""

import dataclasses
import itertools

from experiments.common import checks, flags
from experiments.common.flags import flag

STUDIES = ('quadratic', 'noise', 'sparse', 'network', 'rates')


@dataclasses.dataclass(frozen=True)
class Config(flags.Config):
  """The flags of this experiment."""

  studies: tuple[str, ...] = flag(
    STUDIES, 'the studies to run', STUDIES)
  num_seeds: int = flag(8, 'independent runs of each setting')
  dimensions: tuple[int, ...] = flag(
    (20, 200), 'least squares: numbers of parameters d, rising')
  batch_sizes: tuple[int, ...] = flag(
    (1, 4, 16, 64, 256, 1024), 'least squares: batch sizes b, rising from 1')
  stalenesses: tuple[int, ...] = flag(
    (0, 4, 16, 64, 256), 'least squares: delays τ in steps, rising from 0')
  rates_per_octave: int = flag(
    3, 'least squares: learning rates per factor of two, from 2^-10 to 1')
  target: float = flag(
    1e-6, 'study quadratic: ‖x‖² to reach, from ‖x‖² = 1')
  noise_target: float = flag(
    1e-2, 'study noise: ε, the ‖x‖² to reach, from ‖x‖² = 1')
  noise_ratios: tuple[float, ...] = flag(
    (0.0, 64.0, 256.0, 1024.0), 'study noise: values of σ²/ε, rising from 0, '
    'for the first of --dimensions')
  together: int = flag(
    8, 'trajectories averaged into one run, which reduces chance in small '
    'problems; sparse data in few dimensions takes more, least squares in the '
    'largest of --dimensions one')
  sparse_dimensions: tuple[int, ...] = flag(
    (8, 16, 32, 64, 128), 'study sparse: numbers of parameters d, rising, for '
    'rows with one nonzero entry')
  supports: tuple[int, ...] = flag(
    (2, 4, 8, 16), 'study sparse: nonzero entries k of a row, for the last but '
    'one of --sparse_dimensions')
  sparse_stalenesses: tuple[int, ...] = flag(
    (0, 2, 4, 8, 16, 32, 64, 128, 256, 512), 'study sparse: delays τ in steps, '
    'rising from 0')
  sparse_target: float = flag(
    1e-2, 'study sparse: ‖x − x*‖²/‖x*‖² to reach, from 1')
  max_steps: int = flag(
    16384, 'steps after which a run counts as not converged; studies '
    'quadratic, noise and sparse')
  stable_steps: int = flag(
    2048, 'study rates: steps over which growth is measured')
  model_options: str = flag('{"hidden": [32]}', 'sizes of the model, as JSON')
  train_examples: int = flag(
    1024, 'study network: examples to train on, the first of the set')
  network_batch_sizes: tuple[int, ...] = flag(
    (8, 32, 128, 512), 'study network: batch sizes, rising, multiples of '
    '--num_workers')
  network_stalenesses: tuple[int, ...] = flag(
    (2, 4, 8), 'study network: delays in steps, rising from 1 or more, for the '
    'two smallest batch sizes')
  network_rates: tuple[float, ...] = flag(
    tuple(2.0**k for k in range(-6, 2)), 'study network: learning rates, '
    'rising')
  network_steps: int = flag(
    480, 'study network: steps of the smallest batch and of all runs with '
    'delay; larger batches see as many examples as the smallest')
  least_steps: int = flag(150, 'study network: fewest steps of a run')
  every: int = flag(5, 'study network: steps between two records of the loss')
  target_loss: float = flag(0.2, 'study network: training loss to reach')
  decay: float = flag(
    0.95, 'study network: decay of the averages of the tracked moments')

  def __post_init__(self):
    super().__post_init__()
    self._check_grids()
    self._check_network()

  def _check_grids(self):
    check, rising = flags.check, checks.is_rising
    checks.at_least(self, 3, 'num_seeds')
    checks.each(
      self, 'two or more, rising, at least 1', lambda xs: rising(
        xs, above=0, count=2), 'batch_sizes', 'dimensions', 'sparse_dimensions')
    check(self.batch_sizes, 'batch_sizes', '1 first', lambda bs: bs[0] == 1)
    checks.each(self, 'two or more, rising from 0', lambda xs: rising(
      xs, count=2) and xs[0] == 0, 'stalenesses', 'sparse_stalenesses')
    d = self.sparse_dimensions[-2]
    check(self.supports, 'supports', f'divisors of {d}, the last but one of '
          '--sparse_dimensions', lambda ks: ks and all(
            k > 0 and d % k == 0 for k in ks))
    check(self.noise_ratios, 'noise_ratios', 'rising from 0',
          lambda xs: rising(xs) and xs[0] == 0)
    checks.each(self, 'between 0 and 1', lambda x: 0 < x < 1, 'target',
                'noise_target', 'sparse_target', 'decay')
    checks.at_least(self, 1, 'rates_per_octave', 'together', 'max_steps',
                    'stable_steps', 'every', 'train_examples')

  def _check_network(self):
    check, rising, workers = flags.check, checks.is_rising, self.num_workers
    check(self.network_batch_sizes, 'network_batch_sizes', 'two or more, '
          f'rising, multiples of --num_workers={workers}', lambda bs: rising(
            bs, above=0, count=2) and all(b % workers == 0 for b in bs))
    check(self.network_stalenesses, 'network_stalenesses',
          'rising, at least 1', lambda xs: rising(xs, above=0))
    check(self.network_rates, 'network_rates', 'positive, rising',
          lambda xs: rising(xs, above=0))
    checks.each(self, f'a multiple of --every={self.every}',
                lambda n: n > 0 and n % self.every == 0, 'network_steps',
                'least_steps')
    check(self.target_loss, 'target_loss', 'positive', lambda x: x > 0)

  def needs_images(self) -> bool:
    """Tell whether anything is trained on --dataset."""
    return 'network' in self.studies

  @property
  def rates(self) -> tuple[float, ...]:
    """The learning rates of least squares, falling from 1."""
    n = self.rates_per_octave
    return tuple(2.0**(-k / n) for k in range(10 * n + 1))

  @property
  def is_reversed(self) -> bool:
    """Whether sums are taken in reverse order, for the second rounding."""
    return self.rounding == 'reversed'

  def network_cells(self) -> list[tuple[int, int]]:
    """List (b, τ): each batch without delay, the first two with each delay."""
    return [*((b, 0) for b in self.network_batch_sizes),
            *itertools.product(self.network_batch_sizes[:2],
                               self.network_stalenesses)]

  def network_length(self, batch_size: int, staleness: int) -> int:
    """Return the steps of a run of the network, a multiple of --every."""
    if staleness:
      return self.network_steps
    as_many = self.network_steps * self.network_batch_sizes[0] // batch_size
    return max(self.least_steps, as_many // self.every * self.every)
