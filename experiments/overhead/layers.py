"""What tracking by layer costs, over the plain mean: compilation and steps."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

import gradiv
from experiments.cost import timing

AXIS = 'workers'
WIDTH = 64


def ways() -> dict[str, optax.GradientTransformation]:
  """Return the mean alone, and with moments of the whole and of each layer."""
  mean = gradiv.aggregate_by_mean(AXIS)
  track = lambda **kwargs: optax.chain(
    gradiv.track_moments(AXIS, batch_size=1, **kwargs), mean)
  return {'mean': mean, 'tracked': track(),
          'tracked by layer': track(groups=gradiv.by_layer)}


def measure(num_layers: int, num_workers: int, rounds: int) -> dict:
  """Compile and time a step of each way on a network of dense layers.

  Returns:
    way -> seconds to trace and compile, lines of StableHLO, leaves of the
    state, and milliseconds of a step.
  """
  mesh = Mesh(np.array(jax.devices()[:num_workers]), (AXIS,))
  params = {f'layer_{i}': {'kernel': jnp.zeros((WIDTH, WIDTH)),
                           'bias': jnp.zeros(WIDTH)}
            for i in range(num_layers)}
  grads = jax.device_put(
    jax.tree.map(lambda x: jax.random.normal(
      jax.random.key(0), (num_workers, *x.shape)), params),
    NamedSharding(mesh, P(AXIS)))
  result, steps = {}, {}
  # Twice, as the first of all pays for what jax sets up once.
  for name, tx in (*ways().items(), *ways().items()):
    state = tx.init(params)

    def step(grads, state, tx=tx):
      return tx.update(jax.tree.map(lambda x: x[0], grads), state)

    mapped = jax.jit(jax.shard_map(
      step, mesh=mesh, in_specs=(P(AXIS), P()), out_specs=P(),
      check_vma=False))
    start = time.perf_counter()
    lowered = mapped.lower(grads, state)
    program = lowered.compile()
    result[name] = {
      'compile_seconds': time.perf_counter() - start,
      'lines': len(lowered.as_text().splitlines()),
      'state_leaves': len(jax.tree.leaves(state)),
    }
    steps[name] = lambda grads, program=program, state=state: program(
      grads, state)
  times = timing.in_turn(steps, grads, rounds=rounds)
  for name, milliseconds in times.items():
    result[name]['milliseconds'] = milliseconds
  return {'num_layers': num_layers, 'ways': result}


def table(result: dict) -> str:
  """Lay the figures out, each beside its ratio to the mean's."""
  lines = [f'tracking by layer, {result["num_layers"]} layers; in brackets '
           'over the mean', '',
           f'{"":<18} {"compile (s)":>16} {"step (ms)":>16} '
           f'{"lines":>8} {"state leaves":>13}']
  mean = result['ways']['mean']
  for name, way in result['ways'].items():
    cell = lambda key: f'{way[key]:.2f} ({way[key] / mean[key]:.2f})'
    lines.append(
      f'{name:<18} {cell("compile_seconds"):>16} {cell("milliseconds"):>16} '
      f'{way["lines"]:>8} {way["state_leaves"]:>13}')
  return '\n'.join(lines) + '\n'
