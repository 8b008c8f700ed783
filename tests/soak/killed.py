"""Starts a binary, kills it, starts it again, until it ends by itself."""

import collections
import contextlib
import dataclasses
import itertools
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

from tests import processes
from tests.soak import ends, moments
from tests.soak.binaries import Binary

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
# Seconds for a process to end after a signal, and for a whole run.
_PATIENCE = 1200.0
# Seconds for the other processes of a run of which one is gone.
_FAREWELL = 60.0
_POLL = 0.02


class Lost(AssertionError):
  """Something was lost, or a process ended as it must not."""


@dataclasses.dataclass
class Soak:
  """The kills of one binary.

  Attributes:
    binary: What is killed.
    folder: Where it runs.
    kills: How often to kill it, in as many runs as it takes.
    rng: Draws who is killed when.
    say: Takes a line for each kill.
    num_killed: How often it was killed so far.
  """

  binary: Binary
  folder: pathlib.Path
  kills: int
  rng: random.Random
  say: Callable[[str], None]
  num_killed: int = 0

  def run(self) -> None:
    """Kill, start again, and compare the end of each run with a whole one.

    The first run finds neither data nor compiled programs; all later ones go
    on with what it has left of them.

    Raises:
      Lost: At the first thing that is not as it must be.
    """
    whole, cards = self._whole(), self._cards()
    for number in itertools.count():
      if self.num_killed >= self.kills:
        return
      run = self.folder / f'run_{number}'
      while not self._ends(run, whole, cards):
        pass
      if found := ends.differences(run, self.folder / 'whole'):
        raise Lost('\n'.join([f'{run} did not end as without kills:', *found]))
      shutil.rmtree(run)

  def _whole(self) -> moments.Times:
    """Run without a kill, and note how long everything took."""
    folder = self.folder / 'whole'
    with self._started(folder, 'whole_home') as group:
      watched = moments.Watched(folder)
      while group.processes[0].poll() is None:
        now = watched.look('begun', 'recorded', 'reporting')
        time.sleep(_POLL)
      self._check_end(group, [0])
    self.say(f'whole in {now:.0f} s')
    return watched.times | {'ended': now}

  def _cards(self) -> collections.deque:
    """Shuffle all moments with all signals."""
    cards = list(itertools.product(moments.MOMENTS, SIGNALS))
    self.rng.shuffle(cards)
    return collections.deque(cards)

  def _ends(self, run, whole, cards) -> bool:
    """Start the binary and kill it; return whether it ended before that."""
    with self._started(run, 'home') as group:
      if self.num_killed < self.kills:
        name, signum = cards[0]
        cards.rotate(-1)
        has_come = moments.MOMENTS[name].draw(self.rng, whole)
        if self._waits_for(has_come, run, group):
          return not self._is_killed(run, group, name, signum)
      self._check_end(group, [0])
      return True

  def _waits_for(self, has_come, run, group) -> bool:
    """Wait for a moment; return whether it came before the end."""
    watched = moments.Watched(run)
    while group.processes[0].poll() is None:
      if has_come(watched):
        return True
      time.sleep(_POLL)
    return False

  def _is_killed(self, run, group, name, signum) -> bool:
    """Kill, and count it; return whether that ended the run."""
    if name == 'step' and self.binary.num_processes == 1:
      self._second_is_refused(run, group)
    began = time.monotonic()
    codes = self._kill(group, signum)
    if not any(codes):  # the signal came too late
      return False
    self.num_killed += 1
    self.say(f'{self.num_killed} of {self.kills}: {name}, '
             f'{signal.Signals(signum).name}, exit {codes}, '
             f'{time.monotonic() - began:.1f} s later')
    return True

  @contextlib.contextmanager
  def _started(self, run: pathlib.Path, home: str
               ) -> Iterator[processes.Group]:
    """Start the binary; whatever happens, it ends with the block."""
    run.mkdir(exist_ok=True, parents=True)
    with processes.Group(
        self.binary.commands(*self._folders(run, home)),
        environment={'XDG_CACHE_HOME': str(self.folder / home)}) as group:
      yield group

  def _folders(self, run, home):
    return f'--workdir={run}', f'--data_dir={self.folder / home / "data"}'

  def _kill(self, group, signum) -> list[int]:
    """Send a signal to one of the processes; wait until all have ended."""
    chosen = self.rng.choice(group.processes)
    with contextlib.suppress(ProcessLookupError):
      os.kill(chosen.pid, signum)
    self._end_the_others(group, chosen)
    # 0: it had just ended; negative: before it listened to signals.
    allowed = {0, -signum} if signum == signal.SIGKILL else {
      0, -signum, 128 + signum}
    if signum == signal.SIGINT and any(
        'KeyboardInterrupt' in group.output(i)
        for i in range(len(group.processes))):
      allowed.add(1)  # Python itself had not begun
    # Where one is killed, the others end with any error.
    return self._check_end(group, allowed, enough=any)

  def _end_the_others(self, group, chosen) -> None:
    """Do what a launcher does with processes that wait for one that is gone.

    Before they are connected, they do not know that it is.
    """
    with contextlib.suppress(subprocess.TimeoutExpired):
      chosen.wait(_PATIENCE)
      for i, process in enumerate(group.processes):
        try:
          process.wait(_FAREWELL)
        except subprocess.TimeoutExpired:
          group.kill(i)

  def _check_end(self, group, allowed, enough=all) -> list[int]:
    """Wait for all processes; `enough` exit codes must be among `allowed`."""
    deadline = time.monotonic() + _PATIENCE
    for i, process in enumerate(group.processes):
      try:
        process.wait(max(deadline - time.monotonic(), 0.1))
      except subprocess.TimeoutExpired:
        raise Lost(f'hangs:\n{group.output(i)}') from None
    codes = [process.returncode for process in group.processes]
    if not enough(code in allowed for code in codes):
      outputs = '\n'.join(map(group.output, range(len(codes))))
      raise Lost(f'exit codes {codes}, allowed {sorted(allowed)}:\n{outputs}')
    return codes

  def _second_is_refused(self, run, first) -> None:
    """Start the same command in the same folder: it ends at once."""
    began = time.monotonic()
    with processes.Group(
        self.binary.commands(*self._folders(run, 'home'))) as second:
      codes = self._check_end(second, [0, 1])
      if first.processes[0].poll() is not None:
        return  # it had ended before the second came
      if codes != [1] or 'is in use by process' not in second.output(0):
        raise Lost(f'two runs in {run}:\n{second.output(0)}')
    self.say(f'a second run is refused in {time.monotonic() - began:.1f} s')
