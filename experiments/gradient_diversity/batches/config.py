"""The flags of `gradient_diversity --study=batches`."""

import dataclasses

from experiments.common import flags
from experiments.common.flags import flag
from experiments.gradient_diversity.config import Shared


@dataclasses.dataclass(frozen=True)
class Config(Shared):
  """The flags of the study of batch sizes."""

  replications: tuple[float, ...] = flag(
    (1.0, 2.0, 4.0, 8.0), 'r: a random 1/r of the set, repeated r times')
  target_loss: float = flag(0.1, 'training loss to count the gradients to')
  decay: float = flag(0.95, 'of the averages of the tracked moments')
  num_twins: int = flag(16, 'pairs of runs on sets that differ in one example')
  exact: bool = flag(True, 'also compute B_S over the whole set, at the cost '
                     'of a forward and backward pass')

  def __post_init__(self):
    super().__post_init__()
    check = flags.check
    check(self.batch_sizes, 'batch_sizes',
          f'rising, divisors of --train_examples={self.train_examples}',
          lambda sizes: all(self.train_examples % b == 0 for b in sizes))
    check(self.replications, 'replications', 'at least 1 each, the first 1',
          lambda rs: rs[:1] == (1,) and all(r >= 1 for r in rs))
    check(self.target_loss, 'target_loss', 'positive', lambda x: x > 0)
    check(self.decay, 'decay', 'between 0 and 1', lambda d: 0 < d < 1)
    check(self.num_twins, 'num_twins', 'at least 1', lambda n: n >= 1)
