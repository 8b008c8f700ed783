"""What gradiv costs on one accelerator, in at most eight minutes.

  make accelerator

Runs on whatever device JAX finds, and writes each row as soon as it is
measured, so that nothing is lost if time runs out. Two tables of peers that
use PyTorch, Opacus and TorchJD, come from the same device in a process of
their own. Only ratios within one run carry over to another machine.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys
import time

from experiments.common import cli, flags
from experiments.common.flags import flag

TABLES = ('combining', 'elementwise', 'tracking', 'per_example', 'torch')


@dataclasses.dataclass(frozen=True)
class Config:
  """The flags."""

  workdir: str = flag('', 'folder for the record; empty: runs/accelerator')
  tables: tuple[str, ...] = flag(TABLES, 'what to measure', TABLES)
  seconds: float = flag(480.0, 'begin no row after these')
  small: bool = flag(False, 'tiny sizes, to try the script on a CPU')

  def __post_init__(self):
    flags.check_choices(self)
    flags.check(self.seconds, 'seconds', 'above 0', lambda s: s > 0)


def main(config: Config) -> None:
  """Measure all tables, and print each row."""
  import jax

  from experiments.cost import timing  # here: a bad flag needs no JAX
  from experiments.overhead.accelerator import networks, tables
  begun = time.monotonic()
  small = config.small
  rows = networks.SMALL if small else networks.LARGE
  made = {
    'combining': tables.combining(
      {1000: (4,)} if small else {10**6: (32,), 10**7: (8, 32)}),
    'elementwise': tables.elementwise(1000 if small else 10**8),
    'tracking': tables.tracking(rows['transformer'], 4 if small else 8),
    'per_example': tables.per_example(rows),
  }
  path = pathlib.Path(config.workdir) / 'accelerator.jsonl'
  with path.open('w', encoding='utf-8') as file:
    keep({'device': timing.describe_device(), 'jax': jax.__version__}, file)
    for name in config.tables:
      for row in made.get(name, ()):
        keep({'table': name} | row, file)
        if time.monotonic() - begun > config.seconds:
          break
    left = config.seconds - (time.monotonic() - begun)
    if 'torch' in config.tables and left > 0:
      for row in torch_rows(small, left):
        keep({'table': 'torch'} | row, file)
  print(f'record: {path}')


def keep(row: dict, file) -> None:
  """Write a row, and print it."""
  line = json.dumps(row)
  print(line, file=file, flush=True)
  print(line, flush=True)


def torch_rows(small: bool, seconds: float):
  """Run the peers that use PyTorch; yield their rows as they come."""
  command = [sys.executable, '-m', 'experiments.overhead.accelerator.'
             'torch_peers', str(int(small)), str(seconds)]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
    for line in process.stdout or ():
      yield json.loads(line)


if __name__ == '__main__':
  cli.run(main, Config)
