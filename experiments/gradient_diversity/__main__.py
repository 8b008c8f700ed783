"""Runs a study of `gradient_diversity`; see `experiments.gradient_diversity`.
"""

import contextlib
import json
import pathlib
import sys
from collections.abc import Sequence

from absl import flags

from experiments.common import cli
from experiments.gradient_diversity.batches import config as batches
from experiments.gradient_diversity.mechanisms import config as mechanisms

PACKAGE = 'experiments.gradient_diversity'
STUDIES = {'batches': (batches.Config, f'{PACKAGE}.batches.study:Batches'),
           'mechanisms': (mechanisms.Config,
                          f'{PACKAGE}.mechanisms.study:Mechanisms')}


def chosen(argv: Sequence[str]) -> str:
  """Read --study from a command line and its flag files, and nothing else.

  With --report alone, it is the study of the run in the folder.
  """
  values = flags.FlagValues()
  values.set_gnu_getopt(True)
  flags.DEFINE_string('study', '', '', flag_values=values)
  flags.DEFINE_string('workdir', '', '', flag_values=values)
  flags.DEFINE_bool('report', False, '', flag_values=values)
  try:
    values(list(argv), known_only=True)
  except flags.Error:  # `cli.main` reports it
    return 'batches'
  if values.report and not values.study:
    config = pathlib.Path(values.workdir) / 'config.json'
    with contextlib.suppress(OSError, ValueError, KeyError):
      return json.loads(config.read_text())['flags']['study']
  return values.study or 'batches'


if __name__ == '__main__':
  # A study that does not exist fails the check of --study.
  cli.main(*STUDIES.get(chosen(sys.argv), STUDIES['batches']))
