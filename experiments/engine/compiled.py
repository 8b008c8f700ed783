"""The compiled programs of a run: its start, a scan of steps, its metrics."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

import gradiv
from experiments.engine import gradients, left_out, placing as placing_lib
from experiments.engine.program import Program, common, key_for
from experiments.engine.workers import Workers


class Compiled(NamedTuple):
  """The programs of a run, each compiled when it is first called.

  Attributes:
    create: () -> the first state.
    scan: (rows, state, first step) -> state, and means over the steps of what
      the loss reports, and a `left_out.Seen` of that name where the program
      counts; with a `control`, the factor of the rate comes last.
      The state that it takes is donated: its memory is used again, and it must
      not be read afterwards. Not on the backend 'pmap'.
    judge: (rows, state, first step) -> whether each leaf of each worker's
      gradient is not finite in the first step, [L, W, leaves] of 0 and 1.
    evaluate: state -> all that `read`, `evaluate` and `compare` return.
    read: state -> what `read` returns.
    is_finite: state -> whether the params of any lane are finite.
    put: rows [W, ...] on the host -> what `scan` takes, on the devices.
    place: state on the host -> state on the devices.
    common: state -> what callers see of it, see `program.common`.
  """

  create: Callable[[], dict]
  scan: Callable[..., tuple[dict, dict]]
  judge: Callable[..., jax.Array]
  evaluate: Callable[[dict], dict]
  read: Callable[[dict], dict]
  is_finite: Callable[[dict], jax.Array]
  put: Callable[[Any], Any]
  place: Callable[[dict], dict]
  common: Callable[[dict], dict]


def build(program: Program, workers: Workers) -> Compiled:
  """Build the programs of a run; nothing is computed yet."""
  placing = placing_lib.of(workers)
  cache = {} if program.cache is None else program.cache
  if workers not in cache:
    cache[workers] = _of_lanes(program, workers, placing)
  create, scan, judge, evaluate, read, is_finite = cache[workers]

  @functools.cache
  def shared():
    if placing is None:
      return program.data, program.lanes
    with jax.ensure_compile_time_eval():  # a caller may be tracing
      return placing_lib.put((program.data, program.lanes), placing.common)

  return Compiled(
    create=lambda: _copied(create(shared()[1])),
    scan=lambda rows, state, first, *factor: scan(
      rows, *shared(), state, first, *factor),
    judge=lambda rows, state, first: judge()(rows, *shared(), state, first),
    evaluate=lambda state: evaluate(*shared(), state),
    read=read, is_finite=is_finite, **_moving(program, workers, placing))


def _of_lanes(program, workers, placing):
  """Build what is compiled: functions of data, lanes and state, of any run."""
  over_lanes = _over_the_only_lane if program.is_single else workers.over_lanes
  # What callers read must lie whole in each process.
  jit = jax.jit if placing is None else functools.partial(
    jax.jit, out_shardings=placing.common)

  def model(state):
    return (state['model_state'],) if program.model_state else ()

  @jit
  def evaluate(data, lanes, state):
    def one(lane, state):
      params = program.view(state['params'], state['opt_state'])
      return program.read(state['opt_state']) | program.evaluate(
        data, lane, params, *model(state))
    state = common(program, state)
    return over_lanes(one, lanes, state) | program.compare(state['params'])

  @jit
  def read(state):
    return over_lanes(lambda state: program.read(state['opt_state']),
                      common(program, state))

  @jit
  def is_finite(state):
    params = common(program, state)['params']
    lanes = [jnp.isfinite(x.reshape(len(x), -1)).all(1)
             for x in jax.tree.leaves(params)]
    return jnp.stack(lanes).all(0).any()

  judge = functools.cache(lambda: _judge(program, workers, over_lanes))
  return (_create(program, workers, placing),
          _scan(program, workers, over_lanes), judge, evaluate, read, is_finite)


def _moving(program, workers, placing) -> dict[str, Callable]:
  """Build what brings rows and states to the devices, and states back."""
  see = functools.partial(common, program)
  if placing is not None:
    where = placing.of_state(program)
    seen = jax.jit(see, out_shardings=placing.common)
    return {
      'put': lambda rows: placing.rows(rows, program.gather),
      'place': lambda state: _copied(placing_lib.put(state, where)),
      'common': lambda state: placing_lib.local(seen(state))}
  # Other backends lay the rows out over their devices themselves.
  put = jax.device_put if workers.backend == 'vmap' else lambda rows: rows
  return {'put': lambda rows: put(program.gather(rows)),
          'place': lambda state: state, 'common': see}


def _create(program, workers, placing):
  """Build lanes -> the first state."""
  def one(lane):
    params = program.init(lane)
    state = {'params': params,
             'opt_state': program.make_optimizer(lane).init(params)}
    if program.model_state:
      state['model_state'] = program.model_state(lane, params)
    return state

  @functools.partial(
    jax.jit, out_shardings=placing and placing.of_state(program))
  def create(lanes):
    state = jax.vmap(one)(lanes)
    return state | {
      name: gradiv.replicate(state[name], workers.num_workers)
      for name in program.private}

  return create


def _copied(state):
  """Copy a state: arrays that nothing else refers to can be donated."""
  return jax.tree.map(jnp.copy, state)


def _scan(program, workers, over_lanes):
  """Build (rows, data, lanes, state, first step, ...) -> state, means."""
  axis, control = workers.axis_name, program.control
  gradient = gradients.build(program)

  def extra_of(rows):
    return control.extra(
      len(jax.tree.leaves(rows)[0]), workers.num_workers) if control else {}

  def one_step(rows, data, t, factor, lane, state):
    given = _given(rows, data, lane, t, state, axis)
    grads, seen, model_state = gradient(*given)
    _, _, own, *_ = given
    seen = lax.pmean(seen, axis)
    optimizer = optax.with_extra_args_support(program.make_optimizer(lane))
    updates, opt_state = optimizer.update(
      grads, state['opt_state'], state['params'], data=data,
      value=seen['batch_loss'], **extra_of(own))
    if control:
      updates = control.scaled(updates, *factor, t)
    params = optax.apply_updates(state['params'], updates)
    if 'model_state' not in program.private:
      model_state = jax.tree.map(
        functools.partial(_agreed, axis=axis), model_state)
    new = {'params': params, 'opt_state': opt_state, 'model_state': model_state}
    bad = left_out.by_worker(
      ~left_out.leaves_finite(grads).all(), axis, workers.num_workers
    ) if program.counts_left_out else ()
    return {name: new[name] for name in program.parts}, (seen, bad)

  def steps(rows, data, lanes, state, first, *factor):
    def step(state, at):
      t, rows = at
      return over_lanes(
        functools.partial(one_step, rows, data, t, factor), lanes, state)

    length, _, size = jax.tree.leaves(rows)[0].shape[:3]
    times = first + jnp.arange(length)
    if control:  # in smallest batches
      stride = size * workers.num_workers // control.least
      times = first + stride * jnp.arange(length)
    state, (seen, bad) = lax.scan(step, state, (times, rows))
    seen = jax.tree.map(lambda x: x.mean(0), seen)
    if program.counts_left_out:
      seen['left_out'] = left_out.over_steps(bad)
    return state, seen

  state_axes = _state_axes(program)
  mapped = gradiv.map_workers(
    steps, axis,
    in_axes=(0, None, None, state_axes, None, *([None] if control else [])),
    out_axes=(state_axes, None), backend=workers.backend)
  # Inside jit, pmap would gather everything on one device first.
  return mapped if workers.backend == 'pmap' else jax.jit(
    mapped, donate_argnums=3)


def _judge(program, workers, over_lanes):
  """Build (rows, data, lanes, state, first step) -> [L, W, leaves]."""
  gradient = gradients.build(program)
  axis = workers.axis_name

  def judge(rows, data, lanes, state, first):
    rows = jax.tree.map(lambda x: x[0], rows)

    def one(lane, state):
      grads = gradient(*_given(rows, data, lane, first, state, axis)).grads
      return left_out.by_worker(
        ~left_out.leaves_finite(grads), axis, workers.num_workers)

    return over_lanes(one, lanes, state)

  mapped = gradiv.map_workers(
    judge, axis, in_axes=(0, None, None, _state_axes(program), None),
    out_axes=None, backend=workers.backend)
  return mapped if workers.backend == 'pmap' else jax.jit(mapped)


def _given(rows, data, lane, t, state, axis):
  """Return what the gradient of a worker takes in step t."""
  rows = jax.tree.map(lambda x: x[lane['order']], rows)
  key = jax.random.fold_in(key_for(lane['seed'], 'noise'), t)
  return data, lane | {'step': t}, rows, state, gradiv.worker_key(key, axis)


def _state_axes(program):
  return {name: 0 if name in program.private else None
          for name in program.parts}


def _over_the_only_lane(fn, *trees):
  """Apply `fn` to the one lane there is, as if there was no axis of lanes."""
  lane = jax.tree.map(lambda x: x[0], trees)
  return jax.tree.map(lambda x: jnp.asarray(x)[None], fn(*lane))


def _agreed(x, axis):
  """Average a leaf over the workers; of integers, take the largest."""
  if jnp.issubdtype(x.dtype, jnp.inexact):
    return lax.pmean(x, axis)
  return lax.pmax(x, axis) if jnp.issubdtype(x.dtype, jnp.integer) else x
