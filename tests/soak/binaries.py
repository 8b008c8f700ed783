"""The command of each paper, small: several parts, a sweep, saves, figures."""

import dataclasses
import sys

from experiments.common import flags, parsing
from tests import processes
from tests.experiments.adascale.adascale_test import SMALL as ADASCALE
from tests.experiments.agreement_filtering.small import SMALL as AGREEMENT
from tests.experiments.batch_size_control.control_test import SMALL as CONTROL
from tests.experiments.critical_batch.small import SMALL as CRITICAL_BATCH
from tests.experiments.critical_parameters.study_test import SMALL as CRITICAL
from tests.experiments.decentralized.small import SMALL as DECENTRALIZED
from tests.experiments.gradient_diversity.mechanisms_test import (
  SMALL as MECHANISMS,
)
from tests.experiments.gradient_diversity.small import SMALL as BATCHES

# Says nothing of what is computed, or is of the place where it is.
_OF_THE_PLACE = ('workdir', 'data_dir')


@dataclasses.dataclass(frozen=True)
class Binary:
  """A command that trains; `flags` leaves the folders to who starts it."""

  module: str
  flags: tuple[str, ...]
  num_processes: int = 1

  def commands(self, *more: str) -> list[list[str]]:
    """Return the command of each of its processes."""
    start = [sys.executable, '-m', self.module, *self.flags, *more]
    if self.num_processes == 1:
      return [start]
    address = processes.coordinator_address()
    return [[*start, f'--coordinator_address={address}', f'--process_id={i}',
             f'--num_processes={self.num_processes}']
            for i in range(self.num_processes)]


def as_flags(config: flags.Config) -> tuple[str, ...]:
  """Write the flags that are not at their defaults as a command line."""
  return tuple(
    f'--{field.name}={_text(getattr(config, field.name))}'
    for field in parsing.declared(type(config))
    if field.name not in _OF_THE_PLACE
    and getattr(config, field.name) != field.default)


def _text(value):
  return ','.join(map(str, value)) if isinstance(value, tuple) else str(value)


def _of(paper: str, config: flags.Config, num_processes: int = 1, **changed):
  # A soak lasts for hours, in which somebody may commit.
  config = dataclasses.replace(
    config, save_seconds=0.0, allow_changed=('commit',), **changed)
  return Binary(f'experiments.{paper}', as_flags(config), num_processes)


# What is timed alone, as `overhead` is, ends differently each time.
BINARIES = {
  'gradient_diversity': _of('gradient_diversity', BATCHES),
  'mechanisms': _of('gradient_diversity', MECHANISMS),
  'critical_parameters': _of('critical_parameters', CRITICAL),
  'decentralized': _of(
    'decentralized', DECENTRALIZED, roundings=2, batch_sizes=(63,),
    topologies=('random',)),
  'agreement_filtering': _of('agreement_filtering', AGREEMENT),
  'adascale': _of('adascale', ADASCALE),
  'batch_size_control': _of('batch_size_control', CONTROL),
  'critical_batch': _of('critical_batch', CRITICAL_BATCH),
  'two_processes': _of(
    'adascale', ADASCALE, 2, backend='shard_map', scales=(2,),
    learning_rates=(0.05,))}
