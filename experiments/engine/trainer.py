"""One training loop for all papers.

A run trains *lanes* side by side: independent trainings, one row each in every
hyperparameter (seed, learning rate, training set), compiled as one program.
Each lane's batch is split over *workers*, on any backend. Batches, start and
noise are pure functions of (seed, step), so a run that was cut off goes on bit
for bit: from the newest checkpoint, with the records cut back to it.

Steps are taken in chunks of fixed length, one compiled scan each; between two
chunks the run evaluates, records, saves, and listens to signals.
"""

import functools
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import gradiv
from experiments.engine import checkpoints, progress, records, signals
from experiments.engine.program import (
  Program as Program,
  Schedule as Schedule,
  Workers as Workers,
  common as common,
  key_for as key_for,
)


class OtherRunError(ValueError):
  """The folder holds a run of another configuration."""


def train(
  program: Program,
  schedule: Schedule,
  workdir: str | pathlib.Path,
  *,
  config: dict,
  workers: Workers = Workers(),
  stop: signals.Stop | None = None,
  title: str = '',
) -> dict:
  """Train all lanes to the end of the schedule, from where the last run left.

  Writes `metrics.jsonl` and checkpoints below `workdir`.

  Args:
    program: What to train.
    schedule: How long.
    workdir: A folder of this run alone; made where it is missing.
    config: All that defines the run; a checkpoint of another is refused.
    workers: Who computes.
    stop: Raised by a signal, see `stopping.listen`.
    title: For the progress line.

  Returns:
    The final state: a dict of 'params' and 'opt_state', with lanes leading; of
    what is private, that which `evaluate` and `read` see.

  Raises:
    OtherRunError: Where `workdir` holds a run of another config.
    stopping.Interrupted: After a signal, when all has been saved.
  """
  stop = signals.Stop() if stop is None else stop
  workdir = pathlib.Path(workdir)
  store = checkpoints.Checkpoints(workdir / 'checkpoints')
  first, state = _begin(program, workers, store, config)
  if first >= schedule.steps:
    return common(program, state)
  chunk, evaluate = _compile(program, workers)
  fetch = lambda at: workers.split(
    program.fetch(np.arange(at, at + schedule.every)))
  with (
    records.Records(workdir / 'metrics.jsonl',
                    keep_through=first if first else -1) as log,
    progress.bar(title, schedule.steps, first) as bar,
  ):
    saved = time.monotonic()
    pending = None if first else (0, evaluate(state, None))
    for at in range(first, schedule.steps, schedule.every):
      state, loss = chunk(fetch(at), state, np.int32(at))
      metrics = evaluate(state, loss)
      # The device is at work on this chunk while the last one is written.
      _write(log, pending)
      pending = at + schedule.every, metrics
      last = at + schedule.every == schedule.steps
      asked = bool(stop)  # read once: a signal may come at any moment
      if asked or last or time.monotonic() - saved >= schedule.save_seconds:
        _write(log, pending)
        pending = None
        log.sync()
        store.save(at + schedule.every, state, {'config': config},
                   finite=_can_go_on(common(program, state)['params']))
        saved = time.monotonic()
      bar.update(schedule.every)
      if asked:
        stop.check()
  return common(program, state)


def shapes(program: Program, schedule: Schedule, workers: Workers) -> dict:
  """Trace a chunk of steps and an evaluation, and compute nothing.

  Returns:
    The shapes [L, ...] of the quantities that a run records.

  Raises:
    ValueError: Where the parts of the program do not fit together.
  """
  rows = workers.split(program.fetch(np.arange(schedule.every)))
  state = jax.eval_shape(_creation(program, workers), program.lanes)
  chunk, evaluate = _compile(program, workers)
  state, loss = jax.eval_shape(chunk, rows, state, np.int32(0))
  return jax.eval_shape(evaluate, state, loss)


def _creation(program, workers):
  """Build the function from lanes to the first state."""
  def create(lane):
    params = program.init(lane)
    return {'params': params,
            'opt_state': program.make_optimizer(lane).init(params)}

  @jax.jit
  def create_all(lanes):
    state = jax.vmap(create)(lanes)
    return state | {
      name: gradiv.replicate(state[name], workers.num_workers)
      for name in program.private}

  return create_all


def _begin(program, workers, store, config):
  """Restore the newest state, or make the first."""
  create_all = _creation(program, workers)
  restored = store.restore(jax.eval_shape(create_all, program.lanes))
  if restored is None:
    return 0, create_all(program.lanes)
  check_config(restored.meta['config'], config, store.directory.parent)
  return restored.step, restored.state


def _can_go_on(params) -> bool:
  """Tell whether any lane is finite: in a sweep, some may diverge."""
  lanes = [jnp.isfinite(x.reshape(len(x), -1)).all(1)
           for x in jax.tree.leaves(params)]
  return bool(jnp.stack(lanes).all(0).any())


def check_config(stored: dict, wanted: dict, workdir: pathlib.Path) -> None:
  """Raise OtherRunError where what is stored is of another config."""
  wanted = json.loads(json.dumps(wanted))
  changed = [
    f'{name}: {stored.get(name)!r} there, {wanted.get(name)!r} now'
    for name in sorted(stored.keys() | wanted.keys())
    if stored.get(name) != wanted.get(name)
  ]
  if changed:
    raise OtherRunError(
      f'workdir={str(workdir)!r} holds a run of another '
      f'configuration ({"; ".join(changed)}): pass the same flags to go on '
      'with it, or another --workdir'
    )


def _compile(program, workers):
  """Build the two programs of a run: a chunk of steps, and the evaluation."""
  axis = workers.axis_name
  gradient = program.gradient or (
    lambda lane, *args: jax.value_and_grad(program.loss)(*args))

  def one_step(rows, data, t, lane, state):
    rows = jax.tree.map(lambda x: x[lane['order']], rows)
    batch = program.batch(data, lane, rows)
    key = jax.random.fold_in(key_for(lane['seed'], 'noise'), t)
    loss, grads = gradient(
      lane | {'step': t}, state['params'], batch,
      gradiv.worker_key(key, axis))
    updates, opt_state = program.make_optimizer(lane).update(
      grads, state['opt_state'], state['params'])
    params = optax.apply_updates(state['params'], updates)
    return {'params': params, 'opt_state': opt_state}, lax.pmean(loss, axis)

  def steps(rows, data, lanes, state, first):
    def step(state, at):
      t, rows = at
      return workers.over_lanes(
        functools.partial(one_step, rows, data, t), lanes, state)

    times = first + jnp.arange(jax.tree.leaves(rows)[0].shape[0])
    state, losses = lax.scan(step, state, (times, rows))
    return state, losses.mean(0)

  state_axes = {name: 0 if name in program.private else None
                for name in ('params', 'opt_state')}
  mapped = gradiv.map_workers(
    steps, axis, in_axes=(0, None, None, state_axes, None),
    out_axes=(state_axes, None), backend=workers.backend)

  @jax.jit
  def metrics(data, lanes, state):
    def one(lane, state):
      return program.read(state['opt_state']) | program.evaluate(
        data, lane, state['params'])
    state = common(program, state)
    return workers.over_lanes(one, lanes, state) | program.compare(
      state['params'])

  def chunk(rows, state, first):
    return mapped(rows, program.data, program.lanes, state, first)

  def evaluate(state, loss):
    values = metrics(program.data, program.lanes, state)
    return values if loss is None else values | {'batch_loss': loss}

  return chunk, evaluate


def _write(log, pending):
  if pending is not None:
    step, metrics = pending
    log.write(step, **jax.device_get(metrics))
