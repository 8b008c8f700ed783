"""The flags of `critical_batch`."""

import dataclasses
import math

from experiments.common import checks, flags
from experiments.common.flags import flag
from experiments.models import options as options_lib

DOMAINS = ('images', 'text')
# By optimizer, the power of the batch size that its learning rate grows with.
POWERS = {'sgd': 1.0, 'adam': 0.5}

# Flags that each domain has its own of.
OF_DOMAIN = ('batch_size', 'model_options', 'optimizer', 'learning_rate',
             'tolerance', 'eval_examples')


@dataclasses.dataclass(frozen=True)
class Setting:
  """The flags of a domain."""

  domain: str
  factors: tuple[int, ...]
  batch_size: int
  model_options: str
  optimizer: str
  learning_rate: float
  tolerance: float
  eval_examples: int

  @property
  def sizes(self) -> tuple[int, ...]:
    """The batch sizes, the smallest first."""
    return tuple(factor * self.batch_size for factor in self.factors)

  @property
  def slack(self) -> float:
    """The tolerance of a logarithm of the loss."""
    return math.log1p(self.tolerance)

  def rate(self, factor: int) -> float:
    """Return the learning rate at `factor` times the smallest batch."""
    return self.learning_rate * factor ** POWERS[self.optimizer]


@dataclasses.dataclass(frozen=True)
class Config(flags.Config):
  """The flags of this experiment; what begins with `text_` is of text."""

  num_workers: int = 1  # no flag: batches are not split
  num_seeds: int = flag(6, 'independent runs of each setting')
  domains: tuple[str, ...] = flag(DOMAINS, 'what to train on', DOMAINS)
  batch_size: int = flag(16, 'of the trunk: the smallest')
  factors: tuple[int, ...] = flag(
    (1, 2, 4, 8, 16, 32), 'other batch sizes over that; rising from 1')
  points: tuple[int, ...] = flag(
    (64, 256, 1024), 'steps of the trunk from which to branch; rising')
  branch_steps: int = flag(256, 'of a branch at the smallest batch; others see '
                           'as many examples')
  record_steps: int = flag(32, 'of the smallest batch, between two records')
  model_options: str = flag('{"hidden": [32]}', 'sizes of the model, as JSON')
  optimizer: str = flag('sgd', 'whose learning rate grows as the batch (sgd) '
                        'or as its root (adam)', tuple(POWERS))
  learning_rate: float = flag(0.4, 'at the smallest batch')
  tolerance: float = flag(0.1, 'how much larger than that of the smallest '
                          'batch a loss may be, as a share')
  eval_examples: int = flag(0, 'of the training set, to measure the loss on; '
                            '0: all')
  text_model: str = flag('transformer', 'network', options_lib.TOKEN_MODELS)
  text_model_options: str = flag('{"width": 32, "heads": 2, "layers": 1}',
                                 'sizes of the model, as JSON')
  text_length: int = flag(32, 'characters that a window predicts')
  text_batch_size: int = flag(8, 'see --batch_size')
  text_optimizer: str = flag('adam', 'see --optimizer', tuple(POWERS))
  text_learning_rate: float = flag(0.008, 'see --learning_rate')
  text_tolerance: float = flag(0.01, 'see --tolerance')
  text_eval_examples: int = flag(128, 'see --eval_examples')

  def __post_init__(self):
    super().__post_init__()
    checks.at_least(self, 1, 'batch_size', 'text_batch_size', 'branch_steps',
                    'record_steps', 'text_length', 'text_eval_examples')
    checks.at_least(self, 0, 'eval_examples')
    for name in ('learning_rate', 'tolerance'):
      for given in (name, f'text_{name}'):
        flags.check(getattr(self, given), given, 'positive', lambda x: x > 0)
    self._check_lengths()
    flags.check_options(self, 'text_model_options', self.text_model)

  def _check_lengths(self):
    flags.check(self.factors, 'factors', 'at least 2, rising from 1',
                lambda x: checks.is_rising(x, above=0) and x[0] == 1 < len(x))
    flags.check(self.record_steps, 'record_steps', 'a multiple of each of '
                f'--factors={flags.shown(self.factors)}',
                lambda n: all(n % factor == 0 for factor in self.factors))
    whole = lambda n: n % self.record_steps == 0
    flags.check(self.points, 'points', 'rising multiples of --record_steps='
                f'{self.record_steps}', lambda x: checks.is_rising(
                  x, above=0) and all(map(whole, x)))
    flags.check(self.branch_steps, 'branch_steps', 'a multiple of '
                f'--record_steps={self.record_steps}', whole)

  @property
  def steps(self) -> int:
    """Count the steps of a whole run at the smallest batch."""
    return self.points[-1] + self.branch_steps

  def setting(self, domain: str) -> Setting:
    """Collect the flags of a domain."""
    prefix = '' if domain == 'images' else 'text_'
    return Setting(domain, self.factors, **{
      name: getattr(self, prefix + name) for name in OF_DOMAIN})

  def needs_images(self) -> bool:
    return 'images' in self.domains
