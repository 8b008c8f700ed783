"""How far a run has come: on a terminal by rich, elsewhere in plain lines.

Of several processes, process 0 alone says so.

A *board* shows one line for all parts and one for each that is at work; what is
finished leaves a line that stays. Parts may run in several threads.
"""

import contextlib
import dataclasses
import sys
import threading
import time
from collections.abc import Iterator, Mapping

from rich import console, progress as rich_progress

from experiments.engine import processes

_EVERY_SECONDS = 10.0  # between two plain lines
_current = None  # the board that bars join


@dataclasses.dataclass
class Line:
  """A part at work.

  Attributes:
    title: Of the part.
    began: When.
    total: Its steps; 0 until they are known.
    done: Steps done, in this process or before.
    first: Steps done, and when, at the end of the first scan: compilation is
      over by then.
    loss: The last that is known.
  """

  title: str
  began: float
  total: int = 0
  done: int = 0
  first: tuple[int, float] | None = None
  loss: float | None = None

  @property
  def state(self) -> str:
    """Say in words how far it is."""
    if not self.total:
      return 'at work'
    if self.first is None:
      return 'compiling'
    words = [f'{self.done:,} of {self.total:,} steps']
    steps, since = self.first
    if self.done > steps:
      rate = (self.done - steps) / max(time.monotonic() - since, 1e-9)
      words.append(f'{rate:,.0f} steps/s')
    if self.loss is not None:
      words.append(f'loss {self.loss:.3g}')
    return ', '.join(words)

  def update(self, steps: int, loss: float | None = None) -> None:
    """Note that `steps` more are done."""
    self.done += steps
    if loss is not None:
      self.loss = loss
    if self.first is None:
      self.first = self.done, time.monotonic()
    if _current is not None:
      _current.show()


class Board:
  """Shows all parts; see `board`."""

  def __init__(self, work: Mapping[str, int], finished: int = 0):
    """Take the work of each part that is to do, and count the finished ones."""
    self._work = dict(work)
    # As the report does, count what is trained.
    self._num_parts = sum(map(bool, work.values())) + finished
    self._num_done = finished
    self._finished_work = self._earlier_work = 0
    self._lines: dict[str, Line] = {}
    self._began = self._shown = time.monotonic()
    self._lock = threading.RLock()
    self._is_quiet = not processes.is_first()
    self._rich = None
    if sys.stderr.isatty() and not self._is_quiet:
      self._rich = rich_progress.Progress(
        rich_progress.TextColumn('{task.description}', markup=False),
        rich_progress.BarColumn(20),
        rich_progress.TextColumn('{task.fields[state]}', markup=False),
        console=console.Console(stderr=True), refresh_per_second=4)
      self._rich.start()
      self._tasks = {}
      self._overall = self._rich.add_task('', state='')
      self.show()

  def begin(self, title: str) -> Line:
    """Add the line of a part."""
    with self._lock:
      line = self._lines[title] = Line(title, time.monotonic())
      if self._rich:
        self._tasks[title] = self._rich.add_task(title, total=1, state='')
      self.show()
    return line

  def take_up(self, line: Line, total: int, done: int) -> None:
    """Note that a part begins, or goes on where an earlier process ended."""
    with self._lock:
      line.total, line.done, line.first = total, done, None
      self._earlier_work += self._work.get(line.title, 0) * done / total
      self.show()

  def end(self, title: str) -> float:
    """Take the line of a part away; return its seconds."""
    with self._lock:
      line = self._lines.pop(title)
      if self._rich:
        self._rich.remove_task(self._tasks.pop(title))
    return time.monotonic() - line.began

  def finish(self, title: str, result: str) -> None:
    """Put a line that stays in the place of that of a part."""
    with self._lock:
      seconds = self.end(title)
      self._num_done += bool(self._work.get(title))
      self._finished_work += self._work.get(title, 0)
      text = ', '.join(filter(None, (f'{title}: {seconds:.0f} s', result)))
      if self._rich:
        self._rich.console.print(text, highlight=False, markup=False)
      elif not self._is_quiet:
        print(text, file=sys.stderr, flush=True)
      self.show()

  def show(self) -> None:
    """Show how far everything is."""
    with self._lock:
      if self._rich:
        for line in self._lines.values():
          self._rich.update(
            self._tasks[line.title], state=line.state,
            total=line.total or None, completed=line.done)
        self._rich.update(
          self._overall, description=self._parts(), state=self._left(),
          total=sum(self._work.values()) or None, completed=self._work_done())
      elif self._is_quiet:
        return
      elif time.monotonic() - self._shown >= _EVERY_SECONDS:
        self._shown = time.monotonic()
        print('; '.join(filter(None, [
          self._parts(), self._left(),
          *(f'{line.title}: {line.state}' for line in self._lines.values())])),
          file=sys.stderr, flush=True)

  def close(self) -> None:
    """Leave the terminal as it was."""
    if self._rich:
      self._rich.stop()

  def _parts(self) -> str:
    several = self._num_parts > 1
    return f'{self._num_done} of {self._num_parts} parts' if several else ''

  def _work_done(self) -> float:
    return self._finished_work + sum(
      self._work.get(line.title, 0) * line.done / line.total
      for line in self._lines.values() if line.total)

  def _left(self) -> str:
    """Estimate the time left from the speed of this process."""
    done, total = self._work_done(), sum(self._work.values())
    if done <= self._earlier_work:
      return f'{total - done:,.0f} steps of all trainings to do' if (
        total) else ''
    seconds = (time.monotonic() - self._began) * (total - done) / (
      done - self._earlier_work)
    return (f'{done / total:.0%} of {total:,} steps of all trainings, '
            f'{seconds // 60:.0f}:{seconds % 60:02.0f} left')


@contextlib.contextmanager
def board(work: Mapping[str, int], finished: int = 0) -> Iterator[Board]:
  """Show parts while the block runs; bars below join it.

  Args:
    work: Of each part to do, by title: the steps of all trainings in it; 0 of
      what is computed from these, which is shown and not counted as a part.
    finished: How many parts were trained before.
  """
  global _current
  before, _current = _current, Board(work, finished)
  try:
    yield _current
  finally:
    _current.close()
    _current = before


@contextlib.contextmanager
def bar(title: str, total: int, done: int = 0) -> Iterator[Line]:
  """Show how far `total` steps have come; yields what has `update(steps)`.

  It is the line of the part of this title where a board shows one.
  """
  if _current is None:
    with board({title: total}):
      with bar(title, total, done) as line:
        yield line
    return
  shown, line = _current, _current._lines.get(title)
  is_own = line is None
  line = shown.begin(title) if line is None else line
  shown.take_up(line, total, done)
  try:
    yield line
  finally:
    if is_own:
      shown.end(title)
