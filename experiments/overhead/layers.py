"""What tracking by layer costs, over the plain mean: compilation and steps.

The step is a whole one: the gradient of a deep network on each worker, the
exchange, and Adam. Compilation is counted in CPU seconds, of all threads.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

import gradiv
from experiments.cost import timing

AXIS = 'workers'
WIDTH, BATCH = 64, 32


def ways() -> dict[str, optax.GradientTransformation]:
  """Return the mean alone, and with moments of the whole and of each layer."""
  def chain(*track):
    return optax.chain(
      *track, gradiv.aggregate_by_mean(AXIS), optax.adam(1e-3))
  track = lambda **options: gradiv.track_moments(
    AXIS, batch_size=BATCH, **options)
  return {'mean': chain(), 'tracked': chain(track()),
          'tracked by layer': chain(track(groups=gradiv.by_layer))}


def loss(params, inputs):
  """Compute a loss of a deep network of dense layers."""
  for layer in params.values():
    inputs = jnp.tanh(inputs @ layer['kernel'] + layer['bias'])
  return jnp.mean(inputs**2)


def measure(num_layers: int, num_workers: int, rounds: int) -> dict:
  """Compile and time a training step of each way.

  Returns:
    way -> CPU seconds to trace and compile, lines of StableHLO, leaves of the
    state of what is tracked, and milliseconds of a step.
  """
  mesh = Mesh(np.array(jax.devices()[:num_workers]), (AXIS,))
  params = {f'layer_{i:03d}': {
    'kernel': jax.random.normal(jax.random.key(i), (WIDTH, WIDTH)) / WIDTH**0.5,
    'bias': jnp.zeros(WIDTH)} for i in range(num_layers)}
  inputs = jax.device_put(
    jnp.ones((num_workers * BATCH, WIDTH)), NamedSharding(mesh, P(AXIS)))
  result, steps = {}, {}
  # Twice, as the first of all pays for what jax sets up once.
  for name, tx in (*ways().items(), *ways().items()):
    state = tx.init(params)

    def step(inputs, state, tx=tx):
      grads = jax.grad(loss)(params, inputs)
      return tx.update(grads, state, params)

    mapped = jax.jit(jax.shard_map(
      step, mesh=mesh, in_specs=(P(AXIS), P()), out_specs=P(),
      check_vma=False))
    start = time.process_time()
    lowered = mapped.lower(inputs, state)
    program = lowered.compile()
    result[name] = {
      'compile_seconds': time.process_time() - start,
      'lines': len(lowered.as_text().splitlines()),
      'state_leaves': len(jax.tree.leaves(state)),
    }
    steps[name] = lambda inputs, program=program, state=state: program(
      inputs, state)
  times = timing.in_turn(steps, inputs, rounds=rounds)
  plain = result['mean']['state_leaves']
  for name, milliseconds in times.items():
    result[name]['milliseconds'] = milliseconds
    result[name]['state_leaves'] -= plain
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
