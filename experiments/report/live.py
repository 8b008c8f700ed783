"""Keep a page or a terminal up to date while a run goes on."""

import pathlib
import sys
import time
from collections.abc import Callable

from experiments.report import reading
from experiments.report.reading import Run


def follow(folder: pathlib.Path, show: Callable[[Run], None], every: float,
           sleep: Callable[[float], None] = time.sleep) -> Run:
  """Show a run again and again until it has ended; return its last state.

  A file that cannot be read at the moment, such as one that is just being cut
  back, is read again at the next look.

  Args:
    folder: Of the run, which may have no records yet.
    show: Called with what the folder holds.
    every: Seconds between two looks.
    sleep: Waits between two looks.

  Raises:
    NoReportError: Where the folder holds no run at the first look.
  """
  run = reading.read(folder, may_be_empty=True)
  while True:
    show(run)
    if not run.is_running and run.seen:
      return run
    sleep(every)
    try:
      run = reading.read(folder, may_be_empty=True)
    except (OSError, reading.NoReportError) as error:
      print(f'at the next look again: {error}', file=sys.stderr, flush=True)
