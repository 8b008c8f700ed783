"""The states of a run: the first or the newest, the last, and their shapes."""

from collections.abc import Collection

import jax
import numpy as np

import gradiv
from experiments.engine import (
  checkpoints,
  compiled as compiled_lib,
  identity,
  recording,
  steering,
)
from experiments.engine.program import Program
from experiments.engine.schedule import Schedule
from experiments.engine.workers import Workers


def begin(program: Program, compiled: compiled_lib.Compiled,
          store: checkpoints.Checkpoints, config: dict, workers: Workers,
          allow_changed: Collection[str]) -> checkpoints.Restored:
  """Restore the newest state, or make the first.

  Raises:
    OtherRunError: Where the newest is of another run.
    CheckpointError: Where it is of another model or optimizer.
  """
  workdir, count = store.directory.parent, workers.num_workers

  def template(meta):
    """Check that the run is this one; return the shapes of what it saved."""
    identity.check_config(meta['config'], config, workdir, allow_changed)
    # In another precision no leaf has the dtype that is stored.
    identity.check_numerics(
      meta['numerics'], workdir, allow_changed, ['x64'])
    stored = meta.get('layout', workers.layout)
    if not workers.allow_reshape:
      identity.check_layout(stored, workers.layout, workdir)
    shapes = jax.eval_shape(compiled.create)
    rows = lambda x: jax.ShapeDtypeStruct(
      (stored['num_workers'], *x.shape[1:]), x.dtype)
    return shapes | {
      name: jax.tree.map(rows, shapes[name]) for name in program.private}

  try:
    restored = store.restore(template)
  except checkpoints.OtherStateError as error:
    # That of another model has another state of the optimizer, too.
    kind = 'optimizer' if all(
      line.startswith("state['opt_state']") for line in error.problems
      ) else 'model'
    raise checkpoints.CheckpointError(
      f'workdir={str(workdir)!r} holds a run of another {kind}: use another '
      f'workdir ({error})') from error
  if restored is None:
    return checkpoints.Restored(0, compiled.create(), {})
  state = restored.state | {
    name: gradiv.resize_workers(restored.state[name], count)
    for name in program.private}
  return restored._replace(state=compiled.place(state))


def final(program: Program, compiled: compiled_lib.Compiled, state: dict
          ) -> dict:
  """Return what callers see of the last state."""
  state = compiled.common(state)
  return jax.tree.map(lambda x: x[0], state) if program.is_single else state


def shapes(program: Program, schedule: Schedule, workers: Workers) -> dict:
  """Trace a scan of steps and an evaluation, and compute nothing.

  Returns:
    The shapes [L, ...] of the quantities that a run records.

  Raises:
    ValueError: Where the parts of the program do not fit together.
  """
  rows = program.gather(workers.split(program.fetch(np.arange(schedule.scan))))
  compiled = compiled_lib.build(program, workers)
  state = jax.eval_shape(compiled.create)
  inputs, columns = steering.plan(program, schedule, workers)
  state, seen = jax.eval_shape(compiled.scan, rows, state, np.int32(0), *inputs)
  seen.pop('left_out', None)
  found = recording.joined(jax.eval_shape(compiled.evaluate, state), seen)
  return recording.joined(found, jax.eval_shape(lambda: columns))


def state_shapes(program: Program, workers: Workers) -> dict:
  """Return the shapes of what `train` returns, and compute nothing."""
  compiled = compiled_lib.build(program, workers)
  return jax.eval_shape(
    lambda: final(program, compiled, compiled.create()))
