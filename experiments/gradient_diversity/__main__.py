"""Runs a study of `gradient_diversity`; see `experiments.gradient_diversity`.
"""

import sys
from collections.abc import Sequence

from absl import flags

from experiments.common import cli
from experiments.gradient_diversity.batches.config import Config as BatchConfig
from experiments.gradient_diversity.batches.study import Batches
from experiments.gradient_diversity.mechanisms.config import (
  Config as MechanismConfig,
)
from experiments.gradient_diversity.mechanisms.study import Mechanisms

STUDIES = {'batches': (Batches, BatchConfig),
           'mechanisms': (Mechanisms, MechanismConfig)}


def chosen(argv: Sequence[str]) -> str:
  """Read --study from a command line and its flag files, and nothing else."""
  values = flags.FlagValues()
  values.set_gnu_getopt(True)
  flags.DEFINE_string('study', 'batches', '', flag_values=values)
  try:
    values(list(argv), known_only=True)
  except flags.Error:  # `cli.main` reports it
    return 'batches'
  return values.study


if __name__ == '__main__':
  # A study that does not exist fails the check of --study.
  study, config = STUDIES.get(chosen(sys.argv), STUDIES['batches'])
  cli.main(study(), config)
