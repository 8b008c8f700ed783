"""The flags of `decentralized`."""

import dataclasses

from experiments.common import checks, flags
from experiments.common.flags import flag

DOMAINS = ('images', 'text')
# Graphs of `arms.TOPOLOGIES`, named here so that checking flags needs no JAX.
TOPOLOGIES = ('random', 'random_ring', 'ring', 'two_neighbors', 'exponential',
              'complete')
# Learners of Fig. 5.
FIG_5_WORKERS = 6


@dataclasses.dataclass(frozen=True)
class Config(flags.Config):
  """The flags of this experiment."""

  num_workers: int = flag(5, 'learners')
  num_seeds: int = flag(32, 'independent runs of each main arm on images')
  few_seeds: int = flag(12, 'independent runs of LAMB and of the other graphs')
  roundings: int = flag(2, '2 trains everything once more with the examples of '
                        'each batch in reverse order: a claim on which the two '
                        'disagree is open. Runs at these rates are chaotic')
  lanes_at_once: int = flag(4, 'how many runs to train side by side: four fit '
                            'into the cache of a CPU core; 0: all')
  domains: tuple[str, ...] = flag(DOMAINS, 'what to train on', DOMAINS)
  model_options: str = flag('{"hidden": [50, 50], "use_bias": false}',
                            'sizes of the model, as JSON')
  pixel_scale: float = flag(255.0, 'pixels, less their mean, are divided by '
                            'this; 0: by their standard deviation')
  augment: bool = flag(False, 'random crops and flips, as usual for CIFAR')
  batch_sizes: tuple[int, ...] = flag(
    (1000, 250), 'totals over the workers, the one to study first')
  topologies: tuple[str, ...] = flag(
    ('random', 'random_ring', 'ring', 'complete'),
    'graphs, the one to study first; of ' + ', '.join(TOPOLOGIES))
  num_matchings: int = flag(16, 'random pairings or rings, used in turn')
  learning_rates: tuple[float, ...] = flag(
    (1.75, 2.0, 2.25, 2.5), 'rising, for the first batch size')
  focus_rate: float = flag(2.25, 'the learning rate of the claims about one')
  fig_5_rates: tuple[float, ...] = flag(
    (0.2,), "learning rates of the network of the paper's Fig. 5: six "
    'workers, two neighbors on each side; empty: leave it out')
  warmup_steps: int = flag(0, 'in which rates rise linearly, for all arms')
  rate_cuts: tuple[float, ...] = flag(
    (1.0,), 'shares of the steps after which rates fall to a tenth; 1: never')
  noise_stddev: float = flag(0.05, 'of SSGD*, for each weight')
  lamb_rates: tuple[float, ...] = flag((0.001, 0.003, 0.01), 'rising')
  imposed_window: int = flag(10, 'steps over which the rate to impose is '
                             'smoothed')
  steps: int = flag(300, 'of each run on images')
  num_records: int = flag(10, 'along a run; divides steps')
  measure_every: int = flag(5, 'steps between two looks; divides the steps '
                            'between two records')
  measured_examples: int = flag(0, 'how many of the training set define g; '
                                '0: all')
  target_accuracy: float = flag(0.95, 'on the test set: a success')
  text_model_options: str = flag('{"embed": 8, "hidden": 32}',
                                 'sizes of the LSTM, as JSON')
  text_length: int = flag(16, 'characters that a window predicts')
  text_batch_size: int = flag(100, 'windows, total over the workers')
  text_learning_rates: tuple[float, ...] = flag(
    (8.0, 16.0, 32.0), 'rising')
  text_steps: int = flag(150, 'of each run on text')
  text_seeds: int = flag(12, 'independent runs of each setting of text')
  text_examples: int = flag(256, 'windows to test on')
  target_loss: float = flag(2.6, 'nats a character, on text to test on: a '
                            'success')
  eval_batch_size: int = flag(2048, 'examples evaluated at once')

  def __post_init__(self):
    super().__post_init__()
    self._check_arms()
    self._check_lengths()
    checks.at_least(self, 0, 'noise_stddev', 'measured_examples', 'pixel_scale',
                    'warmup_steps')
    checks.at_least(
      self, 1, 'few_seeds', 'num_matchings', 'imposed_window', 'text_length',
      'text_seeds', 'text_examples', 'eval_batch_size')
    flags.check(self.rate_cuts, 'rate_cuts', 'shares above 0, up to 1',
                lambda cuts: all(0 < cut <= 1 for cut in cuts))
    flags.check(self.target_accuracy, 'target_accuracy', 'from 0 to below 1',
                lambda x: 0 <= x < 1)
    flags.check(self.target_loss, 'target_loss', 'positive', lambda x: x > 0)
    flags.check_options(self, 'text_model_options', 'lstm')

  def _check_arms(self):
    checks.at_least(self, 2, 'num_workers')
    flags.check(self.topologies, 'topologies',
                f'some of {TOPOLOGIES}, each once', lambda names: _distinct(
                  names, lambda name: name in TOPOLOGIES))
    rising = lambda rates: checks.is_rising(rates, above=0)
    checks.each(self, 'positive and rising', rising, 'learning_rates',
                'lamb_rates', 'text_learning_rates')
    flags.check(self.fig_5_rates, 'fig_5_rates', 'positive and rising',
                lambda rates: not rates or rising(rates))
    flags.check(self.focus_rate, 'focus_rate', 'one of --learning_rates',
                lambda rate: rate in self.learning_rates)

  def _check_lengths(self):
    unit = self.num_records * self.measure_every
    for domain in self.domains:
      sizes, steps = {'images': ('batch_sizes', 'steps'), 'text': (
        'text_batch_size', 'text_steps')}[domain]
      flags.check(
        getattr(self, sizes), sizes, 'multiples of --num_workers='
        f'{self.num_workers}, each once', lambda sizes: _distinct(
          sizes, lambda b: b > 0 and b % self.num_workers == 0))
      flags.check(
        getattr(self, steps), steps, 'a multiple of --num_records='
        f'{self.num_records} times --measure_every={self.measure_every}',
        lambda n: unit >= 1 and n >= unit and n % unit == 0)
    if 'images' in self.domains:
      size = self.fig_5_batch_size
      flags.check(
        self.fig_5_rates, 'fig_5_rates', f'empty where {size}, its total '
        'batch, is one of --batch_sizes', lambda rates:
        not rates or size not in self.batch_sizes)

  def needs_images(self) -> bool:
    """Tell whether anything is trained on --dataset."""
    return 'images' in self.domains

  @property
  def fig_5_batch_size(self) -> int:
    """The total batch of Fig. 5's network: each worker's is the same."""
    return self.batch_sizes[0] // self.num_workers * FIG_5_WORKERS

  @property
  def main_arm(self) -> str:
    """DPSGD on the graph to study first."""
    return f'dpsgd_{self.topologies[0]}'

  def every(self, domain: str) -> int:
    """Count the steps between two records."""
    return self.steps_of(domain) // self.num_records

  def steps_of(self, domain: str) -> int:
    """Count the steps of a run."""
    return self.steps if domain == 'images' else self.text_steps


def _distinct(values, allowed):
  values = values if isinstance(values, tuple) else (values,)
  return len({*values}) == len(values) > 0 and all(map(allowed, values))
