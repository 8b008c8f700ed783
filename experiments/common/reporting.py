"""Shows what a finished run has recorded; trains nothing.

Neither JAX nor a network is imported, so that two processes can share the work
by `beside`: the records of two roundings, and the figures. What is derived
from records is read; where it is not there yet, it is computed once.
"""

import dataclasses
import functools
import importlib
import time
from typing import Any

from experiments.common import beside, showing, study as study_lib
from experiments.common.derived import Derived
from experiments.common.study import Outcome, Study
from experiments.engine import signals


def report(study: Study, config: Any) -> Outcome:
  """Read the records, then judge, tabulate and draw.

  Raises:
    FileNotFoundError: Where a part is not finished.
    OtherRunError: Where one is defined by other flags.
  """
  with signals.leaving('the report is not written'):
    return _report(study, config)


def _report(study, config):
  began = time.monotonic()
  config = dataclasses.replace(
    config, workdir=config.workdir or f'runs/{study.name}')
  found = beside.each(
    [functools.partial(_judge, study, one)
     for one in study_lib.roundings(config)],
    lambda: importlib.import_module('experiments.common.plots'))
  outcome = study_lib.joined(found)
  showing.show(study, config, outcome, began)
  return outcome


def _judge(study, config):
  """Read all parts of a rounding, and judge it."""
  workdir = study_lib.folder_of(config)
  done: dict[str, Any] = {}
  digests: dict[str, str] = {}
  for stage in study.stages(config, None, done):
    for part in stage:
      if lacks := part.missing(workdir, config.allow_changed):
        if not isinstance(part, Derived):
          raise FileNotFoundError(f'{lacks}: run without --report')
        part.run(workdir)
      done[part.name] = part.read(workdir)
      digests[part.name] = part.digest(workdir)
  outcome = study_lib.judged(study, config, done, digests)
  # Of the second rounding only the claims are shown.
  return outcome if not config.rounding else dataclasses.replace(
    outcome, reduced=None)
