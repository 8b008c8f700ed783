"""The flags of `critical_parameters`."""

import dataclasses

from experiments.common import flags
from experiments.common.flags import flag
from experiments.critical_parameters import study


@dataclasses.dataclass(frozen=True)
class Config(flags.Config):
  """The flags of this experiment."""

  studies: tuple[str, ...] = flag(
    study.STUDIES, 'which to run, and to draw')
  num_seeds: int = flag(8, 'runs of each setting')
  dimensions: tuple[int, ...] = flag((20, 200), 'd, of least squares')
  batch_sizes: tuple[int, ...] = flag(
    (1, 4, 16, 64, 256, 1024), 'b, rising from 1; least squares')
  stalenesses: tuple[int, ...] = flag(
    (0, 4, 16, 64, 256), 'τ, rising from 0; least squares')
  rates_per_octave: int = flag(3, 'how fine the grid from 2^-10 to 1 is')
  target: float = flag(1e-6, 'of ‖x‖² where there is no noise, from 1')
  noise_target: float = flag(1e-2, 'ε, of ‖x‖² under label noise')
  noise_ratios: tuple[float, ...] = flag(
    (0.0, 64.0, 256.0, 1024.0), 'σ²/ε, with the first of --dimensions')
  together: int = flag(
    8, 'trajectories whose mean makes a run; on sparse data more, and in the '
    'largest of --dimensions one')
  sparse_dimensions: tuple[int, ...] = flag(
    (8, 16, 32, 64, 128), 'd of one-hot rows, Δ = 1/d')
  supports: tuple[int, ...] = flag(
    (2, 4, 8, 16), 'k, with the last but one of --sparse_dimensions')
  sparse_stalenesses: tuple[int, ...] = flag(
    (0, 2, 4, 8, 16, 32, 64, 128, 256, 512), 'τ, rising from 0')
  sparse_target: float = flag(1e-2, "of ‖x − x*‖²/‖x*‖²")
  max_steps: int = flag(16384, 'of a run of the studies above')
  stable_steps: int = flag(2048, 'to see what grows; rates')
  model_options: str = flag('{"hidden": [32]}', 'sizes of the model, as JSON')
  train_examples: int = flag(1024, 'how many examples to train on')
  network_batch_sizes: tuple[int, ...] = flag(
    (8, 32, 128, 512), 'rising; multiples of --num_workers')
  network_stalenesses: tuple[int, ...] = flag(
    (2, 4, 8), 'τ > 0, rising, with each of the first two batches')
  network_rates: tuple[float, ...] = flag(
    tuple(2.0**k for k in range(-6, 2)), 'the grid, rising; network')
  network_steps: int = flag(
    480, 'of the first batch, and of all with delay; else as many examples')
  least_steps: int = flag(150, 'of any run; both multiples of --every')
  every: int = flag(5, 'steps between two looks at the loss; network')
  target_loss: float = flag(0.2, 'training loss to count the steps to; network')
  decay: float = flag(0.95, 'of the averages of the tracked moments')
  # What `diversity_problem` may vary, and this does not.
  augment, label_noise, sampling, image_size = False, 0.0, 'replacement', 0

  def __post_init__(self):
    super().__post_init__()
    check = flags.check
    rising = lambda xs: xs and list(xs) == sorted(set(xs))
    check(self.studies, 'studies', f'some of {study.STUDIES}',
          lambda names: names and set(names) <= set(study.STUDIES))
    check(self.num_seeds, 'num_seeds', 'at least 3', lambda n: n >= 3)
    for name in ('batch_sizes', 'dimensions', 'sparse_dimensions'):
      check(getattr(self, name), name, 'two or more, rising, from 1 on',
            lambda xs: len(xs) > 1 and rising(xs) and xs[0] >= 1)
    check(self.batch_sizes, 'batch_sizes', '1 first', lambda bs: bs[0] == 1)
    for name in ('stalenesses', 'sparse_stalenesses'):
      check(getattr(self, name), name, 'two or more, rising from 0',
            lambda xs: len(xs) > 1 and rising(xs) and xs[0] == 0)
    d = self.sparse_dimensions[-2]
    check(self.supports, 'supports', f'divisors of {d}, the last but one of '
          '--sparse_dimensions', lambda ks: ks and all(
            k > 0 and d % k == 0 for k in ks))
    check(self.noise_ratios, 'noise_ratios', 'rising from 0',
          lambda xs: rising(xs) and xs[0] == 0)
    for name in ('target', 'noise_target', 'sparse_target'):
      check(getattr(self, name), name, 'from 0 to 1', lambda x: 0 < x < 1)
    for name in ('rates_per_octave', 'together', 'max_steps', 'stable_steps',
                 'every'):
      check(getattr(self, name), name, 'at least 1', lambda n: n >= 1)
    workers = self.num_workers
    check(self.network_batch_sizes, 'network_batch_sizes', 'two or more, '
          f'rising, multiples of --num_workers={workers}', lambda bs: len(
            bs) > 1 and rising(bs) and all(b % workers == 0 for b in bs))
    check(self.network_stalenesses, 'network_stalenesses', 'rising from 1 on',
          lambda xs: rising(xs) and xs[0] >= 1)
    check(self.network_rates, 'network_rates', 'positive, rising',
          lambda xs: rising(xs) and xs[0] > 0)
    for name in ('network_steps', 'least_steps'):
      check(getattr(self, name), name, f'a multiple of --every={self.every}',
            lambda n: n > 0 and n % self.every == 0)
    check(self.target_loss, 'target_loss', 'positive', lambda x: x > 0)
    check(self.decay, 'decay', 'between 0 and 1', lambda x: 0 < x < 1)

  def defining(self) -> dict:
    """Of the studies each has a record of its own."""
    return {k: v for k, v in super().defining().items() if k != 'studies'}

  @property
  def eval_batch_size(self) -> int:
    """Evaluate the whole training set at once."""
    return self.train_examples

  @property
  def rates(self) -> tuple[float, ...]:
    """List the rates of least squares, falling from 1."""
    n = self.rates_per_octave
    return tuple(2.0**(-k / n) for k in range(10 * n + 1))
