"""Measure table after table, and keep each row as soon as it is there."""

import json
import pathlib
import subprocess
import sys
import time
import traceback

import jax

from experiments.cost import timing
from experiments.overhead.accelerator import networks, tables
from experiments.overhead.accelerator.config import Config


def main(config: Config) -> None:
  """Measure all tables, and print each row."""
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
      try:
        for row in made.get(name, ()):
          keep({'table': name} | row, file)
          if time.monotonic() - begun > config.seconds:
            break
      except Exception as error:  # the other tables are worth having
        traceback.print_exc()
        keep({'table': name, 'failed': repr(error)[:300]}, file)
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
