"""A run that several processes train together, each started as

  python -m tests.experiments.engine.shared_run WORKDIR KIND PAUSE \
    [ADDRESS NUM_PROCESSES PROCESS_ID]

KIND is 'common' or 'private', the state of the workers; PAUSE the seconds that
a scan takes. With RESHAPE in the environment, it goes on from other devices;
STUCK_AFTER holds the seconds after which the watchdog speaks.
"""

import dataclasses
import os
import sys
import time

import jax

from experiments.engine import processes, signals, trainer
from tests.experiments.engine import tiny_run, trainer_private_test

STEPS, SCAN = 24, 4


def program(kind, workers, pause=0.0):
  made = (tiny_run if kind == 'common' else trainer_private_test).program(
    workers)

  def fetch(steps):
    time.sleep(pause)
    return made.fetch(steps)

  return dataclasses.replace(made, fetch=fetch)


def run(workdir, kind, *, pause=0.0, stop=None, allow_reshape=False):
  workers = trainer.Workers(
    jax.device_count(), 'shard_map', allow_reshape=allow_reshape)
  return trainer.train(
    program(kind, workers, pause), trainer.Schedule(STEPS, SCAN, 0.), workdir,
    config={'kind': kind}, workers=workers, stop=stop,
    stuck_after=float(os.environ.get('STUCK_AFTER', 0)))


if __name__ == '__main__':
  workdir_, kind_, pause_, *address = sys.argv[1:]
  if address:
    processes.connect(address[0], *map(int, address[1:]))
  try:
    with signals.listen() as stop_:
      print('ready', flush=True)
      run(workdir_, kind_, pause=float(pause_), stop=stop_,
          allow_reshape='RESHAPE' in os.environ)
      print('done', flush=True)
  except signals.Interrupted as stopped:
    print(stopped, flush=True)
    sys.exit(stopped.exit_code)
  except (processes.ProcessLostError, trainer.OtherRunError) as error:
    print(error, flush=True)
    processes.leave(1)
    sys.exit(1)
