"""Trains any model: one loop, its checkpoints, records and signals.

`fit` trains one model of one's own (docs/training.md). `train` is below it: it
trains the lanes of a `Program`, a `Schedule` long, on `Workers`.

A run is a pure function of its program and seeds. `compiled` makes two programs
of it, a scan of steps and an evaluation; `gradients` turns any form of loss
into what a step needs; `recording` writes what they return where it is due, by
`writers`, and `clock` how long it took; `advising` says what another batch size
would cost, and `tracking` what to record of gradients. `left_out` counts
gradients that are not finite, and `watchdog` says what is stuck. `states` says
what a run begins with, `checkpoints` keep it, each by `committing`, and
`identity` refuses the folder of another run. After a kill or a signal, `train`
goes on bit for bit. `processes` joins several, and `placing` lays out what they
share.

JAX is imported at the first use of a name that needs it: what only reads
`records` does without.
"""

import importlib
from typing import TYPE_CHECKING, Any

from experiments.engine.schedule import Schedule as Schedule
from experiments.engine.workers import Workers as Workers

if TYPE_CHECKING:
  from experiments.data import pipeline as pipeline
  from experiments.engine import processes as processes
  from experiments.engine.control import Control as Control
  from experiments.engine.fitting import fit as fit, mean_over as mean_over
  from experiments.engine.program import Program as Program
  from experiments.engine.tracking import (
    keep_gram as keep_gram,
    tracked as tracked,
  )
  from experiments.engine.trainer import train as train

_MODULES = {'pipeline': 'experiments.data.pipeline',
            'processes': 'experiments.engine.processes',
            'trainer': 'experiments.engine.trainer'}
_HOMES = {'Control': 'control', 'fit': 'fitting', 'mean_over': 'fitting',
          'Program': 'program', 'keep_gram': 'tracking',
          'tracked': 'tracking', 'train': 'trainer'}


def __getattr__(name: str) -> Any:
  """Import a name where it is asked for (PEP 562)."""
  if name in _MODULES:
    return importlib.import_module(_MODULES[name])
  if name not in _HOMES:
    raise AttributeError(f'{__name__} has no {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{_HOMES[name]}'), name)
