"""One training loop for all papers.

A run trains *lanes* side by side: independent trainings, one row each in every
hyperparameter (seed, learning rate, training set), compiled as one program.
Each lane's batch is split over *workers*, on any backend. Batches, start and
noise are pure functions of (seed, step), so a run that was cut off goes on bit
for bit: from the newest checkpoint, with the records cut back to it.

Steps are taken in chunks of fixed length, one compiled scan each; between two
chunks the run evaluates, records, saves, and listens to signals.
"""

import dataclasses
import functools
import json
import pathlib
import time
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

import gradiv
from experiments import checkpoints, progress, records, stopping

Lane = dict[str, jax.Array]


class OtherRunError(ValueError):
  """The folder holds a run of another configuration."""


@dataclasses.dataclass(frozen=True)
class Program:
  """What the lanes of a run do, as pure functions.

  Attributes:
    lanes: Hyperparameters [L, ...] of each lane; 'seed' and 'order' among
      them, the row of `fetch` whose batches the lane takes.
    data: Arrays common to all lanes, on the device.
    init: lane -> params.
    make_optimizer: lane -> optax transformation, under `axis_name`.
    fetch: steps [K] -> what a batch is made of on the host: a tree of arrays
      [orders, K, batch size, ...], of indices or of examples.
    batch: (data, lane, rows [b, ...]) -> a worker's batch.
    loss: (params, batch, key) -> the mean loss over the batch.
    evaluate: (data, lane, params) -> dict of scalars.
    read: opt_state -> dict of scalars to record.
    compare: params of all lanes -> dict of arrays to record.
  """

  lanes: Lane
  data: Any
  init: Callable
  make_optimizer: Callable
  fetch: Callable
  batch: Callable
  loss: Callable
  evaluate: Callable
  read: Callable = lambda opt_state: {}
  compare: Callable = lambda params: {}


@dataclasses.dataclass(frozen=True)
class Schedule:
  """How long a run is, and how often it looks up.

  Attributes:
    steps: In all; a multiple of `every`.
    every: Steps of a chunk: between two evaluations and records.
    save_seconds: Least time between two checkpoints; a signal and the end
      save at once.
  """

  steps: int
  every: int
  save_seconds: float = 20.0

  def __post_init__(self):
    if self.every < 1 or self.steps < 1 or self.steps % self.every:
      raise ValueError(
        f'steps={self.steps}, every={self.every}: must be positive, and steps '
        'a multiple of every'
      )


@dataclasses.dataclass(frozen=True)
class Workers:
  """Who computes: how many workers, on which backend, how many lanes at once.

  With lanes_at_once = 0 all lanes are vmapped; else so many, one group after
  the other within each step.
  """

  num_workers: int = 1
  backend: str = 'vmap'
  lanes_at_once: int = 0

  @property
  def axis_name(self) -> gradiv.AxisName:
    """Two names where a backend puts several workers on a device."""
    single = self.backend == 'vmap' or self.num_workers <= jax.device_count()
    return 'workers' if single else ('devices', 'workers')

  def over_lanes(self, fn: Callable, *trees: Any) -> Any:
    """Apply `fn` to each lane."""
    if not self.lanes_at_once:
      return jax.vmap(fn)(*trees)
    return lax.map(lambda lane: fn(*lane), trees,
                   batch_size=self.lanes_at_once)

  def split(self, tree: Any) -> Any:
    """Deal batches out: [orders, K, W·b, ...] to [W, K, orders, b, ...]."""
    def deal(x):
      orders, steps, size, *rest = x.shape
      if size % self.num_workers:
        raise ValueError(
          f'batch_size={size}: must be a multiple of '
          f'num_workers={self.num_workers}'
        )
      x = x.reshape(orders, steps, self.num_workers, -1, *rest)
      return np.moveaxis(x, (2, 1, 0), (0, 1, 2))

    return jax.tree.map(deal, tree)


def key_for(seed: jax.Array, purpose: str) -> jax.Array:
  """Make the key of a seed for one purpose; purposes do not share streams."""
  tag = zlib.crc32(purpose.encode())
  return jax.random.fold_in(jax.random.key(seed), tag)


def train(
  program: Program,
  schedule: Schedule,
  workdir: str | pathlib.Path,
  *,
  config: dict,
  workers: Workers = Workers(),
  stop: stopping.Stop | None = None,
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
    The final state: a dict of 'params' and 'opt_state', with lanes leading.

  Raises:
    OtherRunError: Where `workdir` holds a run of another config.
    stopping.Interrupted: After a signal, when all has been saved.
  """
  stop = stopping.Stop() if stop is None else stop
  workdir = pathlib.Path(workdir)
  store = checkpoints.Checkpoints(workdir / 'checkpoints')
  first, state = _begin(program, store, config)
  if first >= schedule.steps:
    return state
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
                   finite=_can_go_on(state['params']))
        saved = time.monotonic()
      bar.update(schedule.every)
      if asked:
        stop.check()
  return state


def _begin(program, store, config):
  """Restore the newest state, or make the first."""
  def create(lane):
    params = program.init(lane)
    return {'params': params,
            'opt_state': program.make_optimizer(lane).init(params)}

  create = jax.jit(jax.vmap(create))
  restored = store.restore(jax.eval_shape(create, program.lanes))
  if restored is None:
    return 0, create(program.lanes)
  _check_config(restored.meta['config'], config, store)
  return restored.step, restored.state


def _can_go_on(params) -> bool:
  """Tell whether any lane is finite: in a sweep, some may diverge."""
  lanes = [jnp.isfinite(x.reshape(len(x), -1)).all(1)
           for x in jax.tree.leaves(params)]
  return bool(jnp.stack(lanes).all(0).any())


def _check_config(stored, wanted, store):
  wanted = json.loads(json.dumps(wanted))
  changed = [
    f'{name}: {stored.get(name)!r} there, {wanted.get(name)!r} now'
    for name in sorted(stored.keys() | wanted.keys())
    if stored.get(name) != wanted.get(name)
  ]
  if changed:
    raise OtherRunError(
      f'workdir={str(store.directory.parent)!r} holds a run of another '
      f'configuration ({"; ".join(changed)}): pass the same flags to go on '
      'with it, or another --workdir'
    )


def _compile(program, workers):
  """Build the two programs of a run: a chunk of steps, and the evaluation."""
  axis = workers.axis_name

  def one_step(rows, data, t, lane, state):
    rows = jax.tree.map(lambda x: x[lane['order']], rows)
    batch = program.batch(data, lane, rows)
    key = jax.random.fold_in(key_for(lane['seed'], 'noise'), t)
    loss, grads = jax.value_and_grad(program.loss)(
      state['params'], batch, gradiv.worker_key(key, axis))
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

  mapped = gradiv.map_workers(
    steps, axis, in_axes=(0, None, None, None, None), out_axes=None,
    backend=workers.backend)

  @jax.jit
  def metrics(data, lanes, state):
    def one(lane, state):
      return program.read(state['opt_state']) | program.evaluate(
        data, lane, state['params'])
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
