"""Measures the parts of `overhead` one after the other."""

import dataclasses
import os
import pathlib

import jax

from experiments.common import flags
from experiments.cost import timing
from experiments.engine import records
from experiments.overhead import aggregation, chains, layers, peers, training
from experiments.overhead.config import Config as Config

RECORD = 'overhead.json'


def run(config: Config) -> dict:
  """Measure all parts, print their tables, and keep the record."""
  flags.check(
    config.num_workers, 'num_workers', f'at most the {jax.device_count()} '
    'devices here', lambda n: n <= jax.device_count())
  flags.check(
    config.parts, 'parts', f'training only with {chains.NUM_WORKERS} devices',
    lambda parts: 'training' not in parts
    or chains.NUM_WORKERS <= jax.device_count())
  record = {'device': timing.describe_device(), 'jax': jax.__version__,
            'config': dataclasses.asdict(config)}
  for part in config.parts:
    record[part], shown = _PARTS[part](config)
    print(shown)
    if config.workdir:  # after each, as the next may fail
      records.write_whole(pathlib.Path(config.workdir) / RECORD, record)
  if config.workdir:
    print(f'record: {pathlib.Path(config.workdir) / RECORD}')
  return record


def _exchange(config):
  results = {str(size): aggregation.measure(config, size)
             for size in config.sizes}
  return results, aggregation.table(config, results)


def _layers(config):
  result = layers.measure(
    config.num_layers, config.num_workers, config.rounds)
  return result, layers.table(result)


def _training(config):
  result = training.measure(min(config.rounds, training.ROUNDS))
  return result, training.table(result)


def _peers(config):
  result = peers.measure_apart()
  return result, peers.table(result)


_PARTS = {'exchange': _exchange, 'layers': _layers, 'training': _training,
          'peers': _peers}


def main(config: Config) -> dict:
  """Make as many virtual devices as there are workers, and run."""
  # With fewer host threads than devices, jaxlib up to 0.10.2 may abort.
  devices = max(config.num_workers, chains.NUM_WORKERS)
  os.environ.setdefault('NPROC', str(4 * devices))
  jax.config.update('jax_num_cpu_devices', devices)
  return run(config)
