"""FSDP whose layers are scanned and rematerialized, and what workers differ by.

  python -m examples.fsdp

`fsdp.gather` stands in place of ``lax.all_gather``. The compiled program
contains the all-gathers and reduce-scatters of plain FSDP, and one all-reduce
of two scalars.
"""

import os

os.environ.setdefault('NPROC', '32')  # devices are threads on a CPU

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import gradiv
from gradiv.meshes import fsdp

LAYERS, WIDTH, BATCH = 4, 32, 8
mesh = jax.make_mesh(
  (jax.device_count(),), ('data',), axis_types=(AxisType.Auto,))
specs = {'w': P(None, 'data'), 'b': P(None, 'data')}


def value_and_grad(params, x):
  probes = fsdp.probes(params, 'data', (LAYERS,))  # one for each layer

  def loss(params, probes):
    @jax.checkpoint
    def layer(h, shard):
      p = jax.tree.map(lambda p, probe: fsdp.gather(p, probe, 'data'), *shard)
      return h + jnp.tanh(h @ p['w'] + p['b'][None]), None

    h, _ = lax.scan(layer, x, (params, probes))
    return jnp.mean((h - jnp.sin(3 * x))**2)

  value, (grads, squares) = jax.value_and_grad(loss, (0, 1))(params, probes)
  moments = fsdp.moments_of(grads, squares, 'data', batch_size=BATCH)
  return lax.pmean(value, 'data'), grads, moments


tx = optax.chain(gradiv.track_moments(), optax.adam(3e-3))


@jax.jit
def step(params, state, x):
  value, grads, moments = jax.shard_map(
    value_and_grad, mesh=mesh, in_specs=(specs, P('data')),
    out_specs=(P(), specs, P()))(params, x)
  updates, state = tx.update(grads, state, params, moments=moments)
  return optax.apply_updates(params, updates), state, value


rng = np.random.default_rng(0)
params = {'w': rng.normal(size=(LAYERS, WIDTH, WIDTH)).astype('f') / WIDTH,
          'b': np.zeros((LAYERS, WIDTH), 'f')}
params = jax.device_put(params, jax.tree.map(
  lambda s: NamedSharding(mesh, s), specs))
state = tx.init(params)
for _ in range(40):
  x = rng.normal(size=(jax.device_count() * BATCH, WIDTH)).astype('f')
  params, state, value = step(params, state, x)
bound = gradiv.batch_size_bound(gradiv.read_moments(state).estimate)
print(f'loss {value:.3f}, batch-size bound {bound:.0f}')
