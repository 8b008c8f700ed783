"""Checkpoints of a run, and the records that belong to each."""

from collections.abc import Callable
from typing import Any

from experiments.engine import checkpoints, processes, records, sealing
from experiments.engine.schedule import Schedule
from experiments.engine.writers import Several


def seal_log(store: checkpoints.Checkpoints, mark: sealing.Mark | None) -> None:
  """Seal a finished log that a kill behind the last save has left unsealed."""
  path = store.directory.parent / 'metrics.jsonl'
  if mark and processes.is_first() and not sealing.seal_of(path).exists():
    with records.Records(path, mark=mark) as log:
      log.seal()


def check_log(store: checkpoints.Checkpoints, schedule: Schedule,
              start: checkpoints.Restored) -> sealing.Mark | None:
  """Check that the log is what it was at the checkpoint; return its mark.

  Args:
    store: The checkpoints of the run, beside its log.
    schedule: When records are due.
    start: Where the run goes on.

  Returns:
    None at the start of a run.

  Raises:
    LogDamagedError: If it is not; and in a log without any checkpoints.
  """
  log = store.directory.parent / 'metrics.jsonl'
  if start.step:
    mark = sealing.Mark(*start.meta['log'])
    processes.by_first(sealing.check, log, mark, start.step, range(
      0, start.step + 1, schedule.record_every))
    return mark

  def check_beginning():
    if log.exists() and not store.directory.exists():
      raise sealing.LogDamagedError(
        f'{log} has records, and {store.directory} is missing: put it back, or '
        f'delete {log.parent} to begin anew')
    store.directory.mkdir(parents=True, exist_ok=True)

  processes.by_first(check_beginning)
  return None


def save(store: checkpoints.Checkpoints, step: int, state: Any,
         meta: dict[str, Any], log: Several, *, finite: bool,
         first: Callable[[], Any]) -> None:
  """Save a checkpoint, when all records before it are on the disk.

  Args:
    store: The checkpoints of the run.
    step: Of the state.
    state: What is saved.
    meta: What is saved beside it, as JSON.
    log: Of the records.
    finite: Whether training can go on from here.
    first: Makes the state of step 0, which is kept as well where this one is
      not finite and no other is there.

  Raises:
    CheckpointError: Where the disk is full.
  """
  log.sync()
  mark = log.lines and log.lines.mark()

  def check():
    if mark is None:
      raise checkpoints.CheckpointError(
        f'{store.directory}: step {step} is not saved, as records before it '
        'are not: make room, and the same command goes on from an older '
        'checkpoint')

  processes.by_first(check)
  if not finite and not store.has_finite():
    store.save(0, first(), meta | {'log': mark}, finite=True)
  store.save(step, state, meta | {'log': mark}, finite=finite)
