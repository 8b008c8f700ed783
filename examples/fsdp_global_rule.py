"""A rule for which all layers decide together, under FSDP: two ways.

  python -m examples.fsdp_global_rule

The weights of the workers follow from whole gradients, of which FSDP holds one
layer at a time. A plain step sends all-gathers and reduce-scatters.

* `two_passes`: one for the inner products, one for the weighted gradient.
  Exact. The compiled program has the backward pass of a plain step twice, with
  its all-gathers, but the forward pass once: XLA sees that both are the same.
  It sends an all-to-all as large as the reduce-scatter besides, and n² numbers.
* `last_weights`: each loss is multiplied by the weight of the step before. The
  plain step, with the all-to-all in place of the reduce-scatter, and n²
  numbers. The weights are one step old, and must stay above zero.
"""

import os

os.environ.setdefault('NPROC', '32')  # devices are threads on a CPU

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from gradiv import weightings
from gradiv.meshes import fsdp

LAYERS, WIDTH, BATCH, LEAST = 4, 32, 8, 1e-3
RULE, SPECS = weightings.geometric_median(), {'w': P(None, 'data')}


def own_loss(params, probes, batch, gather):
  @jax.checkpoint
  def layer(h, shard):
    return h + jnp.tanh(h @ gather(*shard, 'data')), None

  h, _ = lax.scan(layer, batch['x'], (params['w'], probes['w']))
  return jnp.mean((h - batch['y'])**2)


def mean_and_gram(params, batch, factor=1.0):
  """Return the mean of the scaled gradients, and their inner products."""
  n = lax.axis_size('data')
  probes = fsdp.probes(params, 'data', (LAYERS, n, n))
  grads, parts = jax.grad(lambda *p: factor * own_loss(
    *p, batch, fsdp.gather_gram), (0, 1))(params, probes)
  return grads, lax.psum(parts['w'].sum(0), 'data')


def two_passes(params, batch, _):
  weights = RULE(mean_and_gram(params, batch)[1])
  own = lax.axis_size('data') * weights[lax.axis_index('data')]
  probes = fsdp.probes(params, 'data', (LAYERS,))
  return jax.grad(lambda p: own * own_loss(
    p, probes, batch, fsdp.gather))(params), weights


def last_weights(params, batch, weights):
  factors = lax.axis_size('data') * jnp.maximum(weights, LEAST)
  grads, gram = mean_and_gram(
    params, batch, factors[lax.axis_index('data')])
  return grads, RULE(gram / factors[:, None] / factors[None, :])


def step_of(way, mesh):
  return jax.jit(jax.shard_map(
    way, mesh=mesh, in_specs=(SPECS, P('data'), P()), out_specs=(SPECS, P())))


def main():
  n, rng = jax.device_count(), np.random.default_rng(0)
  mesh = jax.make_mesh((n,), ('data',), axis_types=(AxisType.Auto,))
  tx = optax.adam(3e-3)
  for way in (two_passes, last_weights):
    step, weights = step_of(way, mesh), jnp.full(n, 1 / n)
    params = jax.device_put({'w': jnp.zeros((LAYERS, WIDTH, WIDTH))},
                            {'w': NamedSharding(mesh, SPECS['w'])})
    state = tx.init(params)
    for _ in range(60):
      x = rng.normal(size=(n * BATCH, WIDTH)).astype('f')
      y = np.sin(3 * x)
      y[:BATCH] *= -3  # the first worker is mistaken
      grads, weights = step(params, {'x': x, 'y': y}, weights)
      updates, state = tx.update(grads, state, params)
      params = optax.apply_updates(params, updates)
    print(f'{way.__name__}: the first worker weighs {weights[0]:.3f}')


if __name__ == '__main__':
  main()
