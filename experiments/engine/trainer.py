"""One training loop for all papers.

A run trains *lanes* side by side: independent trainings, one row each in every
hyperparameter (seed, learning rate, training set), compiled as one program.
Each lane's batch is split over *workers*, on any backend. Batches, start and
noise are pure functions of (seed, step), so a run that was cut off goes on bit
for bit: from the newest checkpoint, with the records cut back to it.

Steps are taken in scans of fixed length. Between two scans the run records and
evaluates where that is due, saves, and listens to signals.
"""

import contextlib
import dataclasses
import pathlib
import sys
import time
from collections.abc import Collection, Sequence
from typing import Any

import jax
import numpy as np

from experiments.cost import flops
from experiments.data import pipeline
from experiments.engine import (
  advising,
  arguments,
  checkpoints,
  clock as clock_lib,
  compiled as compiled_lib,
  identity,
  left_out,
  processes,
  profiling,
  progress,
  recording,
  saving,
  signals,
  states,
  steering,
  watchdog,
  writers as writers_lib,
)
from experiments.engine.identity import OtherRunError as OtherRunError
from experiments.engine.program import Program as Program, key_for as key_for
from experiments.engine.schedule import Schedule as Schedule
from experiments.engine.workers import Workers as Workers


def train(
  program: Program,
  schedule: Schedule,
  workdir: str | pathlib.Path,
  *,
  config: dict,
  workers: Workers = Workers(),
  stop: signals.Stop | None = None,
  title: str = '',
  allow_changed: Collection[str] = (),
  writers: Sequence[str | writers_lib.Writer] = (),
  profile: tuple[int, int] | None = None,
  max_nonfinite: int = 0,
  stuck_after: float = 0.0,
) -> dict:
  """Train all lanes to the end of the schedule, from where the last run left.

  Writes `metrics.jsonl`, `timing.jsonl` and checkpoints below `workdir`. Where
  no lane is finite any more, the run ends with a message: the remaining records
  are null. A run that tracks moments ends with a line of `gradiv.advise`.

  Several processes, joined by `processes.connect`, call it alike, with one
  workdir that all of them see. Process 0 writes; a signal to any of them stops
  all at the same step.

  Args:
    program: What to train.
    schedule: How long, and what to do how often.
    workdir: A folder of this run alone; made where it is missing.
    config: All that defines the run; a checkpoint of another is refused.
    workers: Who computes.
    stop: Raised by a signal, see `signals.listen`.
    title: For the progress line.
    allow_changed: Names in `config` whose values may differ from those of the
      checkpoint.
    writers: 'tensorboard', 'wandb', or objects of one's own: who gets the
      records besides `metrics.jsonl`.
    profile: (first, end): the steps to trace, first to end - 1; the trace is
      written to `workdir/profile`.
    max_nonfinite: Steps in a row without a finite gradient of any worker of any
      lane after which to save and give up; 0: never.
    stuck_after: Seconds without progress after which to say on stderr which
      process is stuck, at which step; see `watchdog`. 0: ten minutes, and for a
      scan of steps twenty times the longest one.

  Returns:
    The final state: a dict of 'params', 'opt_state' and, where there is one,
    'model_state', with lanes leading; of what is private, that which `evaluate`
    and `read` see.

  Raises:
    OtherRunError: Where `workdir` holds a run of another config, or of other
      devices and `workers.allow_reshape` is not set.
    ValueError: Where it stands at a step between two scans of this schedule,
      or beyond its end; where the ladder of a controller does not fit.
    LogDamagedError: Where `metrics.jsonl` is not what it was when the
      checkpoint was saved.
    CheckpointError: Where the disk is full.
    NonFiniteError: After `max_nonfinite` steps, when all has been saved.
    signals.Interrupted: After a signal, when all has been saved.
    processes.ProcessLostError: Where another process is gone.
  """
  with processes.watched():
    return _train(program, schedule, workdir, config, workers, stop, title,
                  allow_changed, writers, profile, max_nonfinite, stuck_after)


def _train(program, schedule, workdir, config, workers, stop, title,
           allow_changed, writers, profile, max_nonfinite, stuck_after):
  arguments.whole('max_nonfinite', max_nonfinite, 0)
  arguments.seconds('stuck_after', stuck_after)
  if max_nonfinite:
    program = dataclasses.replace(program, counts_left_out=True)
  stop = signals.Stop() if stop is None else stop
  workdir = pathlib.Path(workdir)
  writers_lib.check(writers)
  steering.plan(program, schedule, workers)  # raises where it does not fit
  if program.control:
    config = config | {'control': program.control.describe()}
  store = checkpoints.Checkpoints(workdir / 'checkpoints')
  compiled = compiled_lib.build(program, workers)
  start = states.begin(
    program, compiled, store, config, workers, allow_changed)
  if start.step > schedule.steps:
    raise ValueError(
      f'workdir={str(workdir)!r} holds a run of {start.step} steps already, '
      f'more than steps={schedule.steps}: ask for as many, or use another '
      'workdir')
  mark = saving.check_log(store, schedule, start)
  counted = left_out.LeftOut(
    max_nonfinite, start.meta.get('left_out', {}), start.step)
  if start.step == schedule.steps:
    if counted.is_too_much:
      raise counted.error(title or str(workdir))
    if processes.is_first():
      said = _read_only(program, start, workdir, allow_changed)
      print(f'{title or workdir}: {said}', file=sys.stderr, flush=True)
    final = states.final(program, compiled, start.state)
    if processes.is_first():  # what a kill may have kept the run from
      store.sweep()
      if not (workdir / advising.FILE).exists():
        _advise(program, workdir, title, final,
                start.meta.get('batch_size', 0))
    saving.seal_log(store, mark)
    return final
  if start.step:
    identity.check_numerics(start.meta['numerics'], workdir, allow_changed)
  if start.step % schedule.scan:
    raise ValueError(
      f'workdir={str(workdir)!r} stands at step {start.step}, which is no '
      f'multiple of scan={schedule.scan}: choose a period that divides it')
  steered = steering.of(program, compiled, workers, start)
  with contextlib.ExitStack() as stack:
    enter = stack.enter_context
    traced = enter(profiling.Profile(workdir, profile))
    log = enter(writers_lib.build(
      writers, workdir, start.step, mark, config))
    clock = enter(clock_lib.Clock(
      workdir / 'timing.jsonl' if processes.is_first() else None, start.step))
    bar = enter(progress.bar(title, schedule.steps, start.step))
    dog = enter(watchdog.Watchdog(
      title or str(workdir), schedule.steps, stuck_after).watch())
    recorded = recording.Recording(
      compiled, schedule, log, clock, bar, is_single=program.is_single,
      also=lambda: steered.columns, left_out=counted)
    meta = {'config': config, 'numerics': identity.numerics(),
            'layout': workers.layout}

    def batch_size():
      each = clock.examples // _count_lanes(program)
      return int(steered.columns.get('batch_size', [each])[0])

    def save(step, state):
      dog.enter('saving', step)
      saving.save(
        store, step, state, meta | steered.meta | recorded.meta | {
          'batch_size': batch_size()}, log,
        finite=bool(compiled.is_finite(state)), first=compiled.create)

    state = _run(program, schedule, workers, compiled, start, steered, recorded,
                 traced, clock, stop, save, dog)
    if recorded.diverged_at is not None:
      recorded.fill(state)
      save(schedule.steps, state)
      if processes.is_first():
        print(f'{title or workdir}: at step {recorded.diverged_at} of '
              f'{schedule.steps} no training has finite parameters any more: '
              'not trained further', file=sys.stderr, flush=True)
    if processes.is_first() and (said := counted.sentence()):
      print(f'{title or workdir}: {said}', file=sys.stderr, flush=True)
    processes.check(stop)
    if recorded.diverged_at is None and counted.is_too_much:
      first = counted.step - schedule.scan
      rows = steered.deal(steered.ahead(program.fetch(
        np.arange(first, first + schedule.scan))))
      raise _too_much(title or str(workdir), counted, state,
                      compiled.judge(rows, state, np.int32(first)))
    final = states.final(program, compiled, state)
    # Before the seal, which says that nothing is left to do.
    if processes.is_first():
      _advise(program, workdir, title, final, batch_size())
    if log.lines:
      log.lines.seal()
  return final


def _count_lanes(program):
  return len(jax.tree.leaves(program.lanes)[0])


def _advise(program, workdir, title, final, batch_size):
  advising.say(
    workdir, title or str(workdir), program.tracker(final['opt_state']),
    batch_size, _count_lanes(program))


def _read_only(program, start, workdir, allow_changed):
  """Say that a run was finished before, and what of it was compared."""
  said = (f'{workdir} holds a finished run of {start.step:,} steps: it is '
          'read, and nothing is trained')
  if not program.is_single:  # of a paper, whose flags are all compared
    return said
  same = ', '.join(sorted({*start.meta['config']} - {*allow_changed}))
  return (f'{said}. What is the same in it and in this call: {same}. A change '
          'of anything else is not noticed: name it in config=')


def _run(program, schedule, workers, compiled, start, steered, recorded, traced,
         clock, stop, save, dog):
  """Train from `start` to the end, a signal or divergence; return the state."""
  state, saved = start.state, time.monotonic()
  dog.enter('compiling', start.step)
  recorded.begin(start.step, state, start.meta.get('window', []))
  firsts = range(start.step, schedule.steps, schedule.scan)
  fetched = pipeline.prefetch(lambda first: steered.ahead(
    program.fetch(np.arange(first, first + schedule.scan))), firsts)
  agreed = processes.Agreement()
  with contextlib.closing(fetched):
    for first, rows in zip(firsts, fetched):
      step = first + schedule.scan
      dog.enter('compiling' if first == start.step else watchdog.STEPPING, step)
      traced.before(first, step, state)
      inputs = steered.deal(rows), state, np.int32(first), *steered.inputs
      state, seen = compiled.scan(*inputs)
      if first == start.step:
        clock.count(**_cost_of_a_step(
          schedule, workers, compiled, (inputs[0], state, *inputs[2:]), seen))
      steered.look(step, lambda state=state: compiled.common(state)[
        'opt_state'], seen)
      recorded.add(step, seen, state)
      signum, is_due = agreed(
        stop.signum, time.monotonic() - saved >= schedule.save_seconds)
      is_over = bool(signum) or recorded.left_out.is_too_much
      if is_over or is_due or step == schedule.steps:
        recorded.flush()
        if recorded.diverged_at is None:
          save(step, state)
        saved = time.monotonic()
      if is_over or recorded.diverged_at is not None:
        break
      dog.enter('waiting for data', step)
  return state


def _too_much(title, counted, state, bad):
  """Return the error; `bad` is what `compiled.judge` says of a step."""
  bad = np.asarray(bad)
  names = [jax.tree_util.keystr(path) for path, _ in
           jax.tree_util.tree_leaves_with_path(state['params'])]
  if len(names) != bad.shape[2]:  # A gradient of another structure.
    names = [f'leaf {i}' for i in range(bad.shape[2])]
  return counted.error(title, names, bad.max(0))


def _cost_of_a_step(schedule, workers, compiled, inputs, seen
                    ) -> dict[str, Any]:
  """Count the examples, and the FLOPs of a device, of one step of all lanes."""
  dealt, length, _, size = jax.tree.leaves(inputs[0])[0].shape[:4]
  loss = seen['batch_loss']
  counted = workers.backend != 'pmap' and flops.flops_traced(
    compiled.scan, *inputs) / schedule.scan
  return {'examples': len(loss) * dealt * size * length // schedule.scan,
          'flops': counted or None, 'devices': len(loss.sharding.device_set)}
