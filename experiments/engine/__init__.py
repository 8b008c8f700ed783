"""Trains any model: one loop, its checkpoints, records and signals.

`fit` trains one model of one's own (docs/training.md). `train` is below it: it
trains the lanes of a `Program`, a `Schedule` long, on `Workers`.

A run is a pure function of its program and seeds. `compiled` makes two programs
of it, a scan of steps and an evaluation; `gradients` turns any form of loss
into what a step needs; `recording` writes what they return where it is due, by
`writers`, and `clock` how long it took; `advising` says what another batch size
would cost. `left_out` counts gradients that are not finite, and `watchdog` says
what is stuck. `checkpoints` keep the state, each by `committing`; `identity`
refuses the folder of another run. After a kill or a signal, `train` goes on bit
for bit. `processes` joins several, and `placing` lays out what they share.
"""

from experiments.data import pipeline as pipeline
from experiments.engine import processes as processes
from experiments.engine.control import Control as Control
from experiments.engine.fitting import fit as fit, mean_over as mean_over
from experiments.engine.program import Program as Program
from experiments.engine.schedule import Schedule as Schedule
from experiments.engine.trainer import train as train
from experiments.engine.workers import Workers as Workers
