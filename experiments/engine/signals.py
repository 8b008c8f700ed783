"""Ctrl-C and SIGTERM: finish the scan, save, and leave with 128 + signal."""

import contextlib
import os
import signal
import sys

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
  """A signal asked the run to stop, and everything has been saved.

  Attributes:
    exit_code: 130 after Ctrl-C, 143 after SIGTERM.
  """

  def __init__(self, signum: int):
    super().__init__(f'stopped by {signal.Signals(signum).name}; all is saved')
    self.exit_code = 128 + signum


class Stop:
  """A flag that a signal raises; a second signal ends the process at once."""

  def __init__(self):
    self._signum = None

  def check(self) -> None:
    """Raise `Interrupted` if a signal has come."""
    if self._signum is not None:
      raise Interrupted(self._signum)

  def __bool__(self) -> bool:
    return self._signum is not None

  def _handle(self, signum, frame):
    del frame
    if self._signum is not None:
      os._exit(128 + signum)
    self._signum = signum
    name = signal.Signals(signum).name
    # Not print: a handler must not re-enter a buffered stream.
    os.write(sys.__stderr__.fileno(), f'\n{name}: finishing the scan and '
             'saving; once more leaves at once\n'.encode())


@contextlib.contextmanager
def listen():
  """Turn Ctrl-C and SIGTERM into a flag while the block runs."""
  stop = Stop()
  before = {s: signal.signal(s, stop._handle) for s in SIGNALS}
  try:
    yield stop
  finally:
    for signum, handler in before.items():
      signal.signal(signum, handler)
