"""What gradiv costs, as ratios within one run.

  python -m experiments.overhead --workdir=runs/overhead

Compares ways to combine the workers' gradients. The baseline is the plain mean,
one all-reduce. Beside it: the mean with tracked moments, the Gram matrix alone,
the mean in 8 and 4 bits, the mean of delayed gradients, gossip on a ring, and
agreement filtering, both by the Gram exchange and after every worker has
gathered every gradient, as the peers do it. For each number of parameters the
table shows the time of a step, the temporary memory of the compiled program,
and the bytes that a worker sends on a ring. Below follows what tracking by
layer costs (compilation, step and state leaves), and the rules under `vmap`
beside those of TorchJD, where it is installed. All figures of a table come from
one process that takes the steps in turn; only ratios carry over to other
machines.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

import gradiv
from experiments.common import flags
from experiments.cost import collectives, timing
from experiments.engine import records
from experiments.overhead import layers as overhead_layers, peers
from experiments.overhead.config import Config as Config
from gradiv import topology, weightings

AXIS = 'workers'
COLUMNS = ('milliseconds', 'memory', 'sent')


def gather_everything(
  weighting: weightings.Weighting, axis_name: str
) -> optax.GradientTransformation:
  """Do as `aggregate_by_weights`, but with n gradients on every worker."""
  def update_fn(updates, state, params=None):
    del params
    rows = jax.tree.map(lambda g: lax.all_gather(g, axis_name), updates)
    flat = jax.tree.map(
      lambda x: x.reshape(len(x), -1).astype(jnp.float32), rows)
    gram = sum(jnp.matmul(x, x.T, precision=lax.Precision.HIGHEST)
               for x in jax.tree.leaves(flat))
    weights = weighting(gram)
    return jax.tree.map(
      lambda x, g: (weights @ x).reshape(g.shape).astype(g.dtype),
      flat, updates), state

  return optax.GradientTransformation(lambda params: (), update_fn)


def gram_alone() -> optax.GradientTransformation:
  """Compute the workers' Gram matrix, and use one number of it."""
  def update_fn(updates, state, params=None):
    del params
    gram = gradiv.worker_gram(updates, AXIS)
    return jax.tree.map(lambda g: gram[0, 1].astype(g.dtype), updates), state

  return optax.GradientTransformation(lambda params: (), update_fn)


class Way(NamedTuple):
  """A way to combine gradients.

  Attributes:
    make: Makes the transformation.
    is_private: Whether its updates and its state differ between the workers.
  """

  make: Callable[[], optax.GradientTransformation]
  is_private: bool = False


def chain(*members):
  """Put transformations in front of the plain mean."""
  return optax.chain(*members, gradiv.aggregate_by_mean(AXIS))


WAYS = {
  'mean': Way(lambda: gradiv.aggregate_by_mean(AXIS)),
  'tracked mean': Way(lambda: chain(
    gradiv.track_moments(AXIS, batch_size=1))),
  'Gram matrix': Way(gram_alone),
  '8-bit mean': Way(lambda: gradiv.aggregate_by_quantized_mean(
    8, AXIS, key=jax.random.key(0))),
  '4-bit mean': Way(lambda: gradiv.aggregate_by_quantized_mean(
    4, AXIS, key=jax.random.key(0))),
  'agreement': Way(lambda: gradiv.aggregate_by_agreement(0.97, AXIS)),
  'agreement, gathered': Way(
    lambda: gather_everything(weightings.agreement(0.97), AXIS)),
  'delay of 4, mean': Way(lambda: chain(gradiv.delay_updates(4)), True),
  'gossip on a ring': Way(lambda: gradiv.mix_by_gossip(
    topology.ring(jax.device_count()), AXIS), True),
}
RATIOS = (
  *((name, 'mean') for name in WAYS if name not in (
    'mean', 'agreement, gathered')),
  ('agreement', 'agreement, gathered'))


def compile_step(way: Way, grads: dict, mesh: Mesh) -> Callable:
  """Compile one step over the rows of `grads`, one per worker.

  The result keeps its state, which is donated to each step as in training.
  """
  tx = way.make()
  n = len(jax.tree.leaves(grads)[0])
  params = jax.tree.map(lambda g: jnp.zeros(g.shape[1:], g.dtype), grads)
  spec = P(AXIS) if way.is_private else P()
  row = lambda tree: jax.tree.map(lambda x: x[0], tree)
  unrow = lambda tree: jax.tree.map(lambda x: x[None], tree)

  def step(state, grads):
    state = row(state) if way.is_private else state
    result = tx.update(row(grads), state, params if way.is_private else None)
    return unrow(result) if way.is_private else result

  mapped = jax.jit(jax.shard_map(
    step, mesh=mesh, in_specs=(spec, P(AXIS)), out_specs=spec,
    check_vma=False), donate_argnums=0)
  state = tx.init(params)
  if way.is_private:
    state = gradiv.replicate(state, n)
  return Stepper(mapped.lower(state, grads).compile(), jax.device_put(
    state, NamedSharding(mesh, spec)))


class Stepper:
  """A compiled step with its state."""

  def __init__(self, program, state):
    self.program, self.state = program, state

  def __call__(self, grads):
    """Take one step; return the updates."""
    updates, self.state = self.program(self.state, grads)
    return updates


def measure(config: Config, size: int) -> dict[str, dict[str, float]]:
  """Measure each way at one number of parameters.

  Returns:
    way -> median milliseconds of a step, temporary memory and bytes sent, both
    in gradients.
  """
  mesh = Mesh(np.array(jax.devices()[:config.num_workers]), (AXIS,))
  cuts = np.array_split(np.arange(size), config.num_leaves)
  keys = jax.random.split(jax.random.key(0), config.num_leaves)
  grads = {
    f'leaf_{i}': jax.device_put(
      jax.random.normal(key, (config.num_workers, len(cut)), config.dtype),
      NamedSharding(mesh, P(AXIS)))
    for i, (key, cut) in enumerate(zip(keys, cuts))}
  steps = {name: compile_step(way, grads, mesh) for name, way in WAYS.items()}
  times = timing.in_turn(steps, grads, rounds=config.rounds)
  width = jnp.dtype(config.dtype).itemsize
  return {name: {
    'milliseconds': times[name],
    'memory': step.program.memory_analysis().temp_size_in_bytes / width / size,
    'sent': collectives.bytes_sent(
      step.program.as_text(), config.num_workers) / width / size,
  } for name, step in steps.items()}


def table(config: Config, results: dict) -> str:
  """Lay the figures out, and below each size the ratios."""
  lines = [
    '', f'{config.num_workers} workers on {timing.describe_device()}, '
    f'{config.dtype}; memory and traffic in gradients of D', '',
    f'{"D":>10}  {"":<30} {"ms":>9} {"memory":>8} {"sent":>8}']
  for size, ways in results.items():
    for name, way in ways.items():
      lines.append(f'{size:>10,}  {name:<30} {way["milliseconds"]:>9.2f} '
                   f'{way["memory"]:>8.2f} {way["sent"]:>8.2f}')
    for one, other in RATIOS:
      shares = [ratio(ways, column, one, other) for column in COLUMNS]
      lines.append(f'{"":>10}  {f"{one} / {other}":<30} '
                   + ' '.join(f'{share:>{width}.3f}' for share, width
                              in zip(shares, (9, 8, 8))))
  return '\n'.join(lines) + '\n'


def ratio(ways: dict, column: str, one: str, other: str) -> float:
  """Divide what one way costs by what another does."""
  return ways[one][column] / ways[other][column]


def run(config: Config) -> dict:
  """Measure all sizes, print the table, and keep the record."""
  flags.check(
    config.num_workers, 'num_workers', f'at most the {jax.device_count()} '
    'devices here', lambda n: n <= jax.device_count())
  results = {size: measure(config, size) for size in config.sizes}
  print(table(config, results))
  layers = overhead_layers.measure(
    config.num_layers, config.num_workers, config.rounds)
  print(overhead_layers.table(layers))
  beside = (peers.measure_apart() if config.peers
            else 'TorchJD is not measured: --nopeers')
  print(peers.table(beside))
  record = {'device': timing.describe_device(), 'jax': jax.__version__,
            'config': dataclasses.asdict(config),
            'results': {str(size): ways for size, ways in results.items()},
            'layers': layers, 'peers': beside}
  if config.workdir:
    path = pathlib.Path(config.workdir) / 'overhead.json'
    records.write_whole(path, record)
    print(f'record: {path}')
  return record


def main(config: Config) -> dict:
  """Make as many virtual devices as there are workers, and run."""
  # With fewer host threads than devices, jaxlib up to 0.10.2 may abort.
  os.environ.setdefault('NPROC', str(4 * config.num_workers))
  jax.config.update('jax_num_cpu_devices', config.num_workers)
  return run(config)
