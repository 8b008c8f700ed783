"""Runs the zoo, and keeps a line for each model.

A model that the record holds already is not run again.
"""

import dataclasses
import json
import pathlib

import jax

from experiments.common import cli, flags
from experiments.common.flags import flag

# The largest error, as a fraction, of gradient and moments.
TOLERANCE = 1e-5


@dataclasses.dataclass(frozen=True)
class Config:
  """The flags of this experiment."""

  workdir: str = flag('runs/zoo', 'folder for the record')
  models: tuple[str, ...] = flag((), 'models to run; empty: all')

  def __post_init__(self):
    flags.check_values(self)


def run(config: Config) -> None:
  """Measure the models, one after the other; raise if a number is wrong."""
  from experiments.overhead.zoo import (
    measuring,
    more_transformers,
    page,
    small_models,
    table,
    transformers_models,
  )
  # They fill the table.
  del small_models, transformers_models, more_transformers
  names = [model.name for model in table.MODELS]
  if unknown := set(config.models) - set(names):
    raise SystemExit(f'--models={sorted(unknown)}: must be among {names}')
  path = pathlib.Path(config.workdir) / 'zoo.jsonl'
  path.parent.mkdir(parents=True, exist_ok=True)
  rows = page.read(path) if path.exists() else []
  there = {row['model'] for row in rows}
  measuring.warm_up()
  for model in table.MODELS:
    if model.name in there or (
        config.models and model.name not in config.models):
      continue
    try:
      row = measuring.measure(model)
    except ImportError as error:
      row = {'model': model.name, 'source': model.package,
             'failed': f'{error}'}
    jax.clear_caches()
    rows.append(row)
    print(json.dumps(row), flush=True)
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  print(page.table(rows))
  wrong = [row for row in rows if not row.get('error', 0) <= TOLERANCE]
  if wrong:
    raise SystemExit(f'beyond {TOLERANCE}: {wrong}')


if __name__ == '__main__':
  cli.run(Config, 'experiments.overhead.zoo.__main__:run')
