"""The flags of `adascale`."""

import dataclasses

from experiments.common import flags
from experiments.common.flags import flag


@dataclasses.dataclass(frozen=True)
class Config(flags.Config):
  """The flags of this experiment."""

  num_workers: int = 1  # no flag: as many as --scales say
  num_seeds: int = flag(8, 'independent runs of each setting')
  model_options: str = flag('{"hidden": [32]}', 'sizes of the model, as JSON')
  batch_size: int = flag(16, 'of the small batch, and of each worker')
  scales: tuple[int, ...] = flag((2, 4, 8, 16, 32), 'S, workers; rising')
  learning_rates: tuple[float, ...] = flag(
    (0.2, 0.4, 0.8), 'the grid, rising, for the small batch')
  steps: int = flag(500, 'of the small batch; for others, the sum of the gains')
  num_records: int = flag(50, 'along a run; divides steps')
  window: int = flag(64, 'small batches that the moments are averaged over')

  def __post_init__(self):
    super().__post_init__()
    check = flags.check
    rises = lambda x: x and list(x) == sorted(set(x))
    check(self.batch_size, 'batch_size', 'at least 1', lambda n: n >= 1)
    check(self.scales, 'scales', 'at least 2 and rising',
          lambda scales: rises(scales) and scales[0] > 1)
    check(self.window, 'window', f'above --scales={self.scales[-1]}',
          lambda n: n > self.scales[-1])
    check(self.learning_rates, 'learning_rates', 'positive and rising',
          lambda rates: rises(rates) and rates[0] > 0)
    check(self.num_records, 'num_records', f'a divisor of --steps={self.steps}',
          lambda n: n >= 1 and self.steps >= n and self.steps % n == 0)
