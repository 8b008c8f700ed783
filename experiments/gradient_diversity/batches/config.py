"""The flags of `gradient_diversity --study=batches`."""

import dataclasses

from experiments.common import checks, flags
from experiments.common.flags import flag
from experiments.gradient_diversity.config import Shared


@dataclasses.dataclass(frozen=True)
class Config(Shared):
  """The flags of the study of batch sizes."""

  num_seeds: int = flag(8, 'independent runs of each setting')
  learning_rates: tuple[float, ...] = flag(
    (0.2, 0.28, 0.4, 0.57, 0.8, 1.13, 1.6),
    'learning rates to choose from, for the mean gradient')
  reference_batch_size: int = flag(
    128, 'batch size at which the diversity is measured, and from which the '
    'gradients at all others are predicted')
  replications: tuple[float, ...] = flag(
    (1.0, 2.0, 4.0, 8.0), 'r: a random 1/r of the set, repeated r times')
  target_loss: float = flag(0.1, 'training loss to count the gradients to')
  decay: float = flag(0.95, 'of the averages in `track_moments`')
  looks: int = flag(8, 'records a pass of the run whose diversity is measured')
  small_passes: int = flag(24, 'passes of a run at the smallest batch size, in '
                           'which B_S is tracked and computed at every step; 0 '
                           'trains none')
  num_twins: int = flag(32, 'pairs of runs on sets that differ in one example')
  exact: bool = flag(True, 'also compute B_S over the whole set, at each '
                     'record: a forward and backward pass')

  def __post_init__(self):
    super().__post_init__()
    check = flags.check
    flags.check_together(
      self, ('train_examples', 'batch_sizes'), 'each size must divide it',
      all(self.train_examples % b == 0 for b in self.batch_sizes))
    check(self.replications, 'replications', 'at least 1 each, the first 1',
          lambda rs: rs[:1] == (1,) and all(r >= 1 for r in rs))
    check(self.target_loss, 'target_loss', 'positive', lambda x: x > 0)
    check(self.decay, 'decay', 'between 0 and 1', lambda d: 0 < d < 1)
    checks.at_least(self, 1, 'looks', 'num_twins')
    checks.at_least(self, 0, 'small_passes')

  @property
  def tracks_small(self) -> bool:
    """Tell whether B_S is tracked at the smallest batch size as well.

    That needs the exact one, and workers who share the batch evenly.
    """
    small = self.batch_sizes[0]
    return bool(self.exact and self.small_passes and self.num_workers > 1
                and small != self.reference_batch_size
                and small % self.num_workers == 0)
