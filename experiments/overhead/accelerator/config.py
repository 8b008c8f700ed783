"""The flags of `make accelerator`."""

import dataclasses

from experiments.common import flags
from experiments.common.flags import flag

TABLES = ('combining', 'elementwise', 'tracking', 'per_example', 'torch')


@dataclasses.dataclass(frozen=True)
class Config:
  """The flags."""

  workdir: str = flag('runs/accelerator', 'folder for the record')
  tables: tuple[str, ...] = flag(TABLES, 'what to measure', TABLES)
  seconds: float = flag(480.0, 'begin no row after these')
  small: bool = flag(False, 'tiny sizes, to try the script on a CPU')

  def __post_init__(self):
    flags.check_values(self)
    flags.check(self.seconds, 'seconds', 'above 0', lambda s: s > 0)
