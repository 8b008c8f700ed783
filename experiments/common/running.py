"""Trains what a study lacks, and then shows what it found."""

import contextlib
import dataclasses
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

import jax

from experiments.common import flags, showing, study as study_lib
from experiments.common.study import Outcome, Study
from experiments.engine import identity, processes, progress, signals


def run(study: Study, config: Any, *, stop: signals.Stop | None = None,
        begin: Callable[[Sequence[str]], None] = lambda parts: None,
        ) -> Outcome:
  """Train what is missing, then judge, tabulate and draw.

  Args:
    study: The paper's.
    config: Its flags; see `flags.Config`.
    stop: Raised by a signal; by default, one that listens while this runs.
    begin: Called when all parts have been checked, before any is trained, with
      the names of those that are trained.

  Raises:
    UsageError: On flags that do not fit the data or the network.
  """
  # Training listens to signals itself; all else may be left at any time.
  leaving = signals.leaving(
    'what was trained is saved, and the report is not written')
  with leaving if stop is None else contextlib.nullcontext():
    return _run(study, config, stop, begin)


def _run(study, config, stop, begin):
  began = time.monotonic()
  config = dataclasses.replace(
    config, workdir=config.workdir or f'runs/{study.name}')
  found = []
  for one in study_lib.roundings(config):
    if stop is None:
      with signals.listen() as heard:
        done, digests = _train(study, one, heard, begin)
    else:
      done, digests = _train(study, one, stop, begin)
    found.append(study_lib.judged(study, one, done, digests))
  outcome = study_lib.joined(found)
  processes.by_first(showing.show, study, config, outcome, began)
  return outcome


def _train(study, config, stop, begin):
  """Check every part that is not finished, then run it.

  Returns the results of all parts, and the hashes of their records.
  """
  workdir = study_lib.folder_of(config)
  done: dict[str, Any] = {}
  digests: dict[str, str] = {}
  with _in_one_line(workdir, 'the flags do not fit together', ValueError):
    task = study.prepare(config)
    work, trained = _plan(study, config, task, workdir)
  begin(trained)
  finished = sum(work[name] is None for name in trained)
  if finished and processes.is_first():
    print(f'{finished} of {len(trained)} parts were finished before',
          file=sys.stderr)
  sizes = {name: size for name, size in work.items() if size is not None}
  with progress.board(sizes, finished) as board:
    for stage in study.stages(config, task, done):
      done |= _run_stage(stage, config, workdir, stop, board)
      digests |= {part.name: part.digest(workdir) for part in stage}
  return done, digests


def _plan(study, config, task, workdir
          ) -> tuple[dict[str, int | None], list[str]]:
  """Check the shapes of all parts that are to do.

  Returns the size of each and the names of those that are trained. A finished
  part has no size, and is read, as later parts may depend on it.
  """
  found: dict[str, Any] = {}
  sizes: dict[str, int | None] = {}
  trained = []
  for stage in study.stages(config, task, found):
    for part in stage:
      if part.size:
        trained.append(part.name)
      if part.missing(workdir, config.allow_changed):
        found[part.name] = _checked(part, workdir)
        sizes[part.name] = part.size
      else:
        found[part.name] = part.read(workdir)
        sizes[part.name] = None
  return sizes, trained


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
    board.finish(part.name, last_value(result))
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


def last_value(result: Any) -> str:
  """Say in words what a part came to: its best final accuracy, or loss."""
  names = [name for name in getattr(result, 'data_vars', ())
           if set(result[name].dims) <= {*result.coords}]
  for words, best in ((('test', 'accuracy', 'validation'), 'max'),
                      (('loss',), 'min')):
    for name in (name for word in words for name in names if word in name):
      last = result[name]
      last = last.isel(step=-1) if 'step' in last.dims else last
      return f'best {name} {float(getattr(last, best)()):.3g}'
  return ''
