"""The flags of `overhead`; nothing here imports JAX."""

import dataclasses

from experiments.common import flags
from experiments.common.flags import flag

PARTS = ('exchange', 'layers', 'training', 'peers')


@dataclasses.dataclass(frozen=True)
class Config:
  """The flags of this experiment."""

  workdir: str = flag('', 'folder for the record; empty: runs/overhead')
  sizes: tuple[int, ...] = flag((1_000_000, 10_000_000), 'parameters, D')
  num_workers: int = flag(8, 'one a device; on a CPU, of as many virtual ones')
  num_leaves: int = flag(16, 'of the tree that the parameters are cut into')
  dtype: str = flag('float32', 'of the gradients', ('float32', 'bfloat16'))
  rounds: int = flag(15, 'steps of each way, taken in turn; the median counts')
  num_layers: int = flag(100, 'layers of the network that is tracked by layer')
  parts: tuple[str, ...] = flag(
    PARTS, 'what to measure: the exchange alone, tracking by layer, every '
    'transformation in a training step, and TorchJD', PARTS)

  def __post_init__(self):
    flags.check_values(self)
    check = flags.check
    check(self.sizes, 'sizes', 'at least --num_leaves each',
          lambda sizes: sizes and all(d >= self.num_leaves for d in sizes))
    for name in ('num_leaves', 'rounds', 'num_layers'):
      check(getattr(self, name), name, 'at least 1', lambda n: n >= 1)
    check(self.num_workers, 'num_workers', 'at least 2', lambda n: n >= 2)
