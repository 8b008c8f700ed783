"""Says on stderr which process or step is stuck; it never ends anything.

A thread of each process looks at what the process has last said of itself. With
several processes, each shows what it does to the others, so that one that waits
can say for whom.
"""

import contextlib
import faulthandler
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

from experiments.engine import processes

# A scan may take this many times as long as the longest of the run so far.
TIMES_AS_LONG = 20
# What is never said to be stuck before: steps, and all else (compiling,
# saving, waiting for data), in seconds.
_LEAST, _LEAST_ELSE = 60.0, 600.0
STEPPING = 'stepping'


class Watchdog:
  """Watches one run in this process."""

  def __init__(self, title: str, steps: int, stuck_after: float = 0.0,
               say: Callable[[str], None] | None = None):
    """Set up; `watch` starts the thread.

    Args:
      title: Of the run.
      steps: In all.
      stuck_after: Seconds without progress; 0 where a step may take twenty
        times as long as usual, and all else ten minutes.
      say: What to do with a line, in place of printing it on stderr.
    """
    self._title, self._steps, self._fixed = title, steps, stuck_after
    self._say = say or _print
    self._lock = threading.Lock()
    self._phase, self._step, self._since = 'compiling', 0, time.monotonic()
    self._longest, self._signs = 0.0, 0
    self._warned = 0.0  # seconds of the present stall, when last said
    self._over = threading.Event()

  def enter(self, phase: str, step: int) -> None:
    """Note what the process does from now on, and at which step."""
    now = time.monotonic()
    with self._lock:
      taken, before, warned = now - self._since, self._phase, self._warned
      if before == STEPPING:
        self._longest = max(self._longest, taken)
      self._phase, self._step, self._since, self._warned = phase, step, now, 0.0
    if warned:
      self._say(f'{self._who()} goes on after {taken:.0f} s of {before}')

  def look(self) -> None:
    """Say that it is stuck, if it is: once, then at twice the time."""
    with self._lock:
      taken = time.monotonic() - self._since
      is_stuck = taken >= max(self._allowed(), 2 * self._warned)
      if is_stuck:
        is_first, self._warned = not self._warned, taken
      self._signs += 1
      at = self._at()
    processes.show(f'{self._signs} {at} on {socket.gethostname()}')
    if not is_stuck:
      return
    usual = (f'; the longest scan of steps has taken {self._longest:.1f} s'
             if self._longest else '')
    self._say(f'stuck? {self._who()} has made no progress for {taken:.0f} s, '
              f'{at} ({self._title}){usual}')
    for line in _others():
      self._say(line)
    if is_first:
      _print_stacks()

  @contextlib.contextmanager
  def watch(self) -> Iterator['Watchdog']:
    """Look now and then, in a thread, while the block runs."""
    every = min(self._fixed / 4, 5.0) if self._fixed else 5.0

    def run():
      while not self._over.wait(every):
        self.look()

    thread = threading.Thread(target=run, name='watchdog', daemon=True)
    thread.start()
    try:
      yield self
    finally:
      self._over.set()
      thread.join(1.0)

  def _allowed(self) -> float:
    if self._fixed:
      return self._fixed
    if self._phase != STEPPING or not self._longest:
      return _LEAST_ELSE
    return max(_LEAST, TIMES_AS_LONG * self._longest)

  def _at(self) -> str:
    return f'{self._phase} at step {self._step:,} of {self._steps:,}'

  def _who(self) -> str:
    index = 0 if processes.count() == 1 else processes.index()
    return (f'process {index} of {processes.count()} on '
            f'{socket.gethostname()}')


def _others(pause: float = 2.0) -> Iterator[str]:
  """Say what the other processes have shown, and which of them is silent."""
  if processes.count() == 1:
    return
  before = processes.shown()
  time.sleep(pause + 5.0)  # longer than any of them waits between two signs
  for index, text in sorted(processes.shown().items()):
    if index != processes.index():
      signs, _, at = text.partition(' ')
      is_silent = before.get(index, ' ').partition(' ')[0] == signs
      yield (f'  process {index}: {at}'
             + (', and does not answer' if is_silent else ''))


def _print(line: str) -> None:
  print(line, file=sys.stderr, flush=True)


def _print_stacks() -> None:
  """Print where each thread is, where stderr is a file."""
  with contextlib.suppress(OSError, ValueError, AttributeError):
    faulthandler.dump_traceback(sys.stderr.fileno())
