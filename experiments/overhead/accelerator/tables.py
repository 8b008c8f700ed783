"""The tables: each yields one row at a time, so that a row cut off is one row.

Workers lie along a leading axis on the one device, under `vmap`.
"""

from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradiv
from experiments.cost import flops, timing
from experiments.overhead import ways
from experiments.overhead.accelerator import networks
from gradiv import weightings

AXIS = 'workers'
ROUNDS, SECONDS = 9, 3.0
# Examples whose gradients are also computed one at a time.
NUM_CHECKED = 4


def per_example(rows: dict[str, networks.Row]) -> Iterator[dict[str, Any]]:
  """Time the squared norm of each example's gradient, beside a plain step."""
  for title, row in rows.items():
    problem = networks.build(row)
    arguments = problem.params, problem.batch
    wanted = _first_norms(problem)
    steps, result = {}, {}
    for way in ('plain', *row.ways):
      try:
        steps[way] = ways.WAYS[way](problem.loss)
      except ImportError as error:
        result[way] = {'failed': str(error)}
    programs, failed = _compiled(steps, *arguments)
    for way, program in list(programs.items()):
      try:
        loss, grads, norms = program(*arguments)
        if way == 'plain':
          plain = grads
        result[way] = {
          'temporary_mib': _temporary(program),
          'gflop': flops.flops_traced(steps[way], *arguments) / 1e9,
          'grad_error': _distance(grads, plain),
          'norm_error': None if norms is None else _error(norms, wanted)}
        del loss, grads, norms
      except jax.errors.JaxRuntimeError as error:  # out of memory
        failed[way] = str(error)
        del programs[way]
    times = timing.in_turn(
      programs, *arguments, rounds=ROUNDS, seconds=SECONDS, wait_each=False)
    for way, milliseconds in times.items():
      result[way]['milliseconds'] = milliseconds
    result |= {way: {'failed': why[:300]} for way, why in failed.items()}
    yield {'row': title, 'examples': problem.num_examples,
           'parameters': problem.num_parameters, 'ways': result}


def combining(sizes: dict[int, tuple[int, ...]]) -> Iterator[dict[str, Any]]:
  """Time rules over n gradients of D numbers, on the one device."""
  rule = lambda weighting: gradiv.aggregate_by_weights(weighting, AXIS)
  for size, counts in sizes.items():
    for n in counts:
      rules = {
        'mean': gradiv.aggregate_by_mean(AXIS),
        'tracked mean': optax.chain(
          gradiv.track_moments(AXIS, batch_size=1),
          gradiv.aggregate_by_mean(AXIS)),
        'agreement': gradiv.aggregate_by_agreement(0.97, AXIS),
        'upgrad': rule(weightings.upgrad()),
        'krum': rule(weightings.krum(max(1, n // 4))),
        'median': gradiv.aggregate_by_median(AXIS),
        'trimmed mean': gradiv.aggregate_by_trimmed_mean(
          max(1, n // 4), AXIS),
        '8-bit mean': gradiv.aggregate_by_quantized_mean(
          8, AXIS, key=jax.random.key(0)),
      }
      grads = {'g': jax.random.normal(jax.random.key(n), (n, size)) + 0.1}
      steps = {name: _over_workers(tx, size) for name, tx in rules.items()}
      steps['sum of rows'] = lambda g: g['g'].sum(0)
      steps['Gram matrix and weighted sum'] = lambda g: _two_products(g['g'])
      yield _timed({'n': n, 'D': size}, steps, grads)


def elementwise(size: int) -> Iterator[dict[str, Any]]:
  """Time what draws a number for each element, beside a copy that scales."""
  key = jax.random.key(0)
  chains = {
    '8-bit rounding': gradiv.quantize_updates(8, key=key),
    'Langevin noise': gradiv.add_langevin_noise(0.1, key=key),
    'dropped updates': gradiv.drop_updates(0.5, key=key),
  }
  updates = {'g': jax.random.normal(key, (size,))}
  steps: dict[str, Callable] = {
    'scaling': lambda u: jax.tree.map(lambda x: 2 * x, u),
    '32 random bits': lambda u: jax.random.bits(key, u['g'].shape)}
  for name, tx in chains.items():
    state = tx.init(updates)
    steps[name] = lambda u, tx=tx, state=state: tx.update(u, state)
  yield _timed({'D': size}, steps, updates)


def tracking(row: networks.Row, n: int) -> Iterator[dict[str, Any]]:
  """Time a training step of n workers with Adam, tracked and not."""
  problem = networks.build(row)
  shards = jax.tree.map(
    lambda x: x.reshape(n, -1, *x.shape[1:]), problem.batch)
  track = lambda **options: gradiv.track_moments(
    AXIS, batch_size=problem.num_examples // n, **options)
  chains = {'mean': (), 'tracked': (track(),),
            'tracked by layer': (track(groups=gradiv.by_layer),)}
  steps = {}
  for name, members in chains.items():
    tx = optax.chain(
      *members, gradiv.aggregate_by_mean(AXIS), optax.adam(1e-3))

    def step(params, shards, tx=tx):
      def on_worker(shard):
        grads = jax.grad(problem.loss)(params, shard)
        return tx.update(grads, tx.init(params), params)
      return jax.vmap(on_worker, out_axes=None, axis_name=AXIS)(shards)

    steps[name] = step
  yield _timed({'workers': n, 'parameters': problem.num_parameters},
               steps, problem.params, shards)


def _over_workers(tx, size) -> Callable:
  """Run a transformation over the leading axis of workers."""
  state = tx.init({'g': jnp.zeros(size)})
  return lambda grads: jax.vmap(
    lambda g: tx.update(g, state), out_axes=None, axis_name=AXIS)(grads)


def _two_products(rows):
  """Do the least that any rule of the Gram matrix must do with n gradients."""
  highest = jax.lax.Precision.HIGHEST
  gram = jnp.matmul(rows, rows.T, precision=highest)
  return jnp.matmul(jax.nn.softmax(gram[0]), rows, precision=highest)


def _timed(row, steps, *arguments):
  """Compile steps and time them in turn; return the row."""
  programs, failed = _compiled(steps, *arguments)
  times = timing.in_turn(
    programs, *arguments, rounds=ROUNDS, seconds=SECONDS, wait_each=False)
  return row | {'ways': {name: {
    'milliseconds': times[name], 'temporary_mib': _temporary(program)}
    for name, program in programs.items()} | {
      name: {'failed': why[:300]} for name, why in failed.items()}}


def _compiled(steps, *arguments) -> tuple[dict, dict[str, str]]:
  """Compile steps side by side; return programs, and why others failed."""
  lowered = {name: jax.jit(step).lower(*arguments)
             for name, step in steps.items()}
  programs, failed = {}, {}
  with futures.ThreadPoolExecutor(max_workers=8) as pool:
    made = {name: pool.submit(x.compile) for name, x in lowered.items()}
    for name, future in made.items():
      try:
        programs[name] = future.result()
      except jax.errors.JaxRuntimeError as error:
        failed[name] = str(error)
  return programs, failed


def _temporary(program) -> float:
  return program.memory_analysis().temp_size_in_bytes / 2**20


def _first_norms(problem) -> np.ndarray:
  """Compute squared norms of the first examples, one after the other."""
  step = jax.jit(jax.grad(problem.loss))
  first = lambda i: jax.tree.map(lambda x: x[i], problem.batch)
  return np.array([float(optax.tree.norm(
    step(problem.params, first(i)), squared=True))
    for i in range(min(NUM_CHECKED, problem.num_examples))])


def _error(norms, wanted) -> float | None:
  """Compare the first squared norms, where a way gives them one by one."""
  if jnp.ndim(norms) == 0:
    return None
  return float(np.max(np.abs(
    np.asarray(norms[:len(wanted)]) / wanted - 1)))


def _distance(grads, others) -> float:
  """Return the relative distance of two gradients."""
  away = jax.tree.map(lambda a, b: a - b, grads, others)
  return float(optax.tree.norm(away) / optax.tree.norm(others))
