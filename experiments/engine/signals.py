"""Ctrl-C and SIGTERM: finish the scan, save, and leave with 128 + signal."""

import contextlib
import os
import signal
import sys

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
  """A signal asked the run to stop.

  Attributes:
    signum: The signal.
    exit_code: 130 after Ctrl-C, 143 after SIGTERM.
    alone: Whether this process stops and the others do not know of it.
  """

  def __init__(self, signum: int, kept: str = 'all is saved', *,
               alone: bool = False):
    """Say which signal it was, and what is kept of the work so far."""
    super().__init__(f'stopped by {signal.Signals(signum).name}; {kept}')
    self.signum = signum
    self.exit_code = 128 + signum
    self.alone = alone


class Stop:
  """A flag that a signal raises; a second signal ends the process at once."""

  def __init__(self):
    self._signum = None
    self._heard = 0

  @property
  def signum(self) -> int:
    """The signal that has come, to this process or another; 0 where none."""
    return self._signum or self._heard

  def hear(self, signum: int) -> None:
    """Note the signal that has come to another process; 0 where none."""
    self._heard = signum

  def check(self) -> None:
    """Raise `Interrupted` if a signal has come."""
    if self.signum:
      raise Interrupted(self.signum)

  def __bool__(self) -> bool:
    return self.signum > 0

  def _handle(self, signum, frame):
    del frame
    if self._signum is not None:
      os._exit(128 + signum)
    self._signum = signum
    name = signal.Signals(signum).name
    # A full disk or a closed terminal must not keep the run from saving.
    with contextlib.suppress(OSError, ValueError, AttributeError):
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


@contextlib.contextmanager
def leaving(kept: str):
  """Let Ctrl-C and SIGTERM raise `Interrupted` at once while the block runs.

  For work that loses nothing by it; a second signal ends the process at once.

  Args:
    kept: What is kept of the work so far, for the message.
  """
  def leave(signum, frame):
    del frame
    for each in SIGNALS:
      signal.signal(each, lambda signum, frame: os._exit(128 + signum))
    raise Interrupted(signum, kept, alone=True)

  before = {s: signal.signal(s, leave) for s in SIGNALS}
  try:
    yield
  finally:
    for signum, handler in before.items():
      signal.signal(signum, handler)
