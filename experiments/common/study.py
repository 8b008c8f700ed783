"""A study: parts are trained, records become labeled arrays, claims judge.

What a paper writes is a `Study`; `run` is the only program there is. It trains
what is missing, reads the records, judges the claims, prints, draws and writes.
With `report_only` it does all of that but the training.
"""

import abc
import contextlib
import dataclasses
import pathlib
import pkgutil
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent import futures
from typing import Any, Protocol

import jax

from experiments.common import claims as claims_lib, flags, showing, tables
from experiments.engine import identity, processes, progress, signals

ROUNDINGS = ('', 'reversed')

Watch = Mapping[str, Any]  # options of `trainer.train` that change no number


class Part(Protocol):
  """What is done at once and then read: see `parts` and `computed`."""

  name: str

  @property
  def size(self) -> int:
    """Count the steps of all lanes; 0 where there are none."""

  def missing(self, workdir: pathlib.Path,
              allow_changed: Collection[str] = ()) -> str:
    """Say what is not finished; empty where nothing is missing."""

  def check(self) -> None:
    """Raise ValueError where shapes do not fit; trains nothing."""

  def plan(self) -> Any:
    """Return what `read` will, with the right shapes, before there is any."""

  def run(self, workdir: pathlib.Path, stop: signals.Stop,
          allow_changed: Collection[str] = (), watch: Watch | None = None,
          ) -> None:
    """Do what is not done yet; `watch` is what `Config.watch` returns."""

  def read(self, workdir: pathlib.Path) -> Any:
    """Read the results from disk, of which nothing may be missing."""


# What the earlier parts have found, by their names.
Done = Mapping[str, Any]


class Study(abc.ABC):
  """What a paper writes.

  Attributes:
    name: Of the paper's folder and command.
    title: Of the paper, with its authors and year.
    link: To the paper.
    command: What reproduces it, such as 'make demo'.
    sentence: What the reproduction found, in one sentence.
    setup: What is trained, on which data: a paragraph for docs/papers.md.
    task: 'package.module:Name' of what `prepare` makes of the flags. It is
      imported then, as a report needs neither data nor a network.
    pictures: The captions of the figures that docs/papers.md shows.
    figures: By file name, functions of (config, reduced, claims), which return
      None where there is nothing to draw.
  """

  name: str
  title: str
  link: str
  command: str = ''
  sentence: str = ''
  setup: str = ''
  task: str = ''
  pictures: Mapping[str, str] = {}
  figures: Mapping[str, Callable[..., Any]] = {}

  def prepare(self, config: Any) -> Any:
    """Load the data and build the network; raises UsageError on bad flags."""
    return pkgutil.resolve_name(self.task)(config) if self.task else None

  @abc.abstractmethod
  def stages(self, config: Any, task: Any, done: Done
             ) -> Iterable[Sequence[Part]]:
    """Yield groups of parts; those of a group do not need one another.

    A generator: by the time that it is asked for the next group, `done` holds
    the results of all earlier ones. `task` is what `prepare` returned, or None
    where nothing is trained.
    """

  @abc.abstractmethod
  def reduce(self, config: Any, done: Done) -> Any:
    """Reduce the results to what claims, tables and figures show."""

  def summarize(self, config: Any, reduced: Any) -> Any:
    """Return the numbers to write to `summary.json`."""
    del config
    return reduced

  @abc.abstractmethod
  def claims(self, config: Any, reduced: Any) -> Iterable[claims_lib.Claim]:
    """Judge the claims."""

  def tables(self, config: Any, reduced: Any, summary: Any
             ) -> Iterable[tables.Table]:
    """Lay the results out; the table of claims is added by `run`.

    `summary` is what `summarize` returned.
    """
    return ()


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What a study found: `reduced` of the first rounding, and all claims."""

  reduced: Any
  claims: list[claims_lib.Claim]


def run(study: Study, config: Any, *, stop: signals.Stop | None = None,
        report_only: bool = False, begin: Callable[[], None] = lambda: None,
        ) -> Outcome:
  """Train what is missing, then judge, tabulate and draw.

  Args:
    study: The paper's.
    config: Its flags; see `flags.Config`.
    stop: Raised by a signal; by default, one that listens while this runs.
    report_only: Whether to read the records of a finished run, and no more.
    begin: Called when all parts have been checked, before any is trained.

  Raises:
    UsageError: On flags that do not fit the data or the network.
    FileNotFoundError: With `report_only`, where a part is not finished.
  """
  # Training listens to signals itself; all else may be left at any time.
  leaving = signals.leaving(
    'what was trained is saved, and the report is not written')
  with leaving if stop is None else contextlib.nullcontext():
    return _run(study, config, stop, report_only, begin)


def _run(study, config, stop, report_only, begin):
  began = time.monotonic()
  config = dataclasses.replace(
    config, workdir=config.workdir or f'runs/{study.name}')
  found = []
  for rounding in ROUNDINGS[:config.roundings]:
    workdir = pathlib.Path(config.workdir) / rounding
    one = dataclasses.replace(config, rounding=rounding)
    if report_only:
      done = _read(study, one, workdir)
    elif stop is None:
      with signals.listen() as heard:
        done = _train(study, one, workdir, heard, begin)
    else:
      done = _train(study, one, workdir, stop, begin)
    reduced = study.reduce(one, done)
    found.append(Outcome(reduced, list(study.claims(one, reduced))))
  outcome = found[0]
  if len(found) > 1:
    outcome = dataclasses.replace(
      outcome, claims=claims_lib.joined(outcome.claims, found[1].claims))
  processes.by_first(_show, study, config, outcome, began)
  return outcome


def _show(study, config, outcome, began):
  showing.show(study, config, outcome)
  print(f'{time.monotonic() - began:.1f} s in all')


def _read(study, config, workdir):
  """Read all parts of a finished run."""
  done: dict[str, Any] = {}
  for stage in study.stages(config, None, done):
    for part in stage:
      if lacks := part.missing(workdir, config.allow_changed):
        raise FileNotFoundError(f'{lacks}: run without --report')
      done[part.name] = part.read(workdir)
  return done


def _train(study, config, workdir, stop, begin):
  """Check every part that is not finished, then run it; return all results."""
  done: dict[str, Any] = {}
  with _in_one_line(workdir, 'the flags do not fit together', ValueError):
    task = study.prepare(config)
    work = _plan(study, config, task, workdir)
  begin()
  finished = sum(size is None for size in work.values())
  if finished and processes.is_first():
    print(f'{finished} of {len(work)} parts were finished before',
          file=sys.stderr)
  sizes = {name: size for name, size in work.items() if size is not None}
  with progress.board(sizes, finished) as board:
    for stage in study.stages(config, task, done):
      done |= _run_stage(stage, config, workdir, stop, board)
  return done


def _plan(study, config, task, workdir) -> dict[str, int | None]:
  """Check the shapes of all parts that are to do; return the size of each.

  A finished part has none, and is read, as later parts may depend on it.
  """
  found: dict[str, Any] = {}
  sizes: dict[str, int | None] = {}
  for stage in study.stages(config, task, found):
    for part in stage:
      if part.missing(workdir, config.allow_changed):
        found[part.name] = _checked(part, workdir)
        sizes[part.name] = part.size
      else:
        found[part.name] = part.read(workdir)
        sizes[part.name] = None
  return sizes


def _checked(part, workdir):
  """Return the plan of a part; what does not fit becomes one line."""
  with _in_one_line(workdir, f'part {part.name}', Exception):
    part.check()
    return part.plan()


@contextlib.contextmanager
def _in_one_line(workdir, what, kind):
  """Turn an error before training into a line; its traceback has a file."""
  try:
    yield
  except (flags.UsageError, identity.OtherRunError):
    raise
  except kind as error:
    path = workdir / 'traceback.txt'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(traceback.format_exc())
    text = ' '.join(str(error).split())
    raise flags.UsageError(f'{what}: {text} (see {path})') from error


def parts_at_once(config: Any) -> int:
  """Return how many parts to train side by side; by default two on a CPU.

  XLA runs small networks on one core each. Collectives of two programs over
  the same devices would cross, so other backends train one after the other;
  and a process can write one trace at a time.
  """
  if config.backend != 'vmap' or config.profile:
    return 1
  return config.parts_at_once or (2 if jax.default_backend() == 'cpu' else 1)


def _run_stage(stage, config, workdir, stop, board) -> dict[str, Any]:
  """Run the parts of a stage, some side by side.

  After an error no further part begins; those at work are waited for.
  """
  def one(part):
    lacks = part.missing(workdir, config.allow_changed)
    processes.check(stop)  # all have looked before one of them writes
    if not lacks:
      return part.name, part.read(workdir)
    board.begin(part.name)
    part.run(workdir, stop, config.allow_changed, config.watch())
    result = part.read(workdir)
    board.finish(part.name, showing.last_value(result))
    return part.name, result

  with futures.ThreadPoolExecutor(parts_at_once(config)) as pool:
    jobs = [pool.submit(one, part) for part in stage]
    try:
      for job in futures.as_completed(jobs):
        job.result()
    except BaseException:
      pool.shutdown(cancel_futures=True)
      raise
  return dict(job.result() for job in jobs)
