"""A progress bar on a terminal, a plain line now and then elsewhere."""

import contextlib
import sys
import time


@contextlib.contextmanager
def bar(title: str, total: int, done: int = 0, every_seconds: float = 10.0):
  """Show how far `total` steps have come; yields what has `update(steps)`."""
  if sys.stderr.isatty():
    import tqdm
    with tqdm.tqdm(total=total, initial=done, desc=title, unit='step',
                   leave=False, mininterval=0.5) as shown:
      yield shown
  else:
    yield _Lines(title, total, done, every_seconds)


class _Lines:
  """Prints at most a line every few seconds."""

  def __init__(self, title, total, done, every_seconds):
    self._title, self._total, self._done = title, total, done
    self._first, self._begin = done, time.monotonic()
    self._every, self._last = every_seconds, self._begin

  def update(self, steps):
    self._done += steps
    now = time.monotonic()
    if now - self._last < self._every:
      return
    self._last = now
    rate = (self._done - self._first) / (now - self._begin)
    print(f'{self._title}: step {self._done} of {self._total}, '
          f'{rate:.0f} a second, {(self._total - self._done) / rate:.0f} s '
          'left', file=sys.stderr, flush=True)
