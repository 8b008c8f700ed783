"""A step under plain jit on a mesh of Explicit axes, with gradients unreduced.

  python -m examples.explicit_mesh

One line stands in place of ``jax.reshard(grads, P())``. The compiled program
contains, of the gradient's D elements, one all-to-all and one all-gather, and
all-reduces of n² numbers and a few scalars: what an all-reduce of D sends.
Needs jax 0.10 or newer.
"""

import os

os.environ.setdefault('NPROC', '32')  # devices are threads on a CPU

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import gradiv
from gradiv import meshes

mesh = jax.make_mesh(
  (jax.device_count(),), ('data',), axis_types=(AxisType.Explicit,))
on = lambda *spec, **kinds: NamedSharding(mesh, P(*spec, **kinds))
rule = gradiv.weightings.agreement(max_cosine_distance=1.2)
optimizer = optax.adam(1e-2)


def loss(params, x, y):
  return jnp.mean((jnp.tanh(x @ params['in']) @ params['out'] - y)**2)


@jax.jit
def step(params, state, x, y):
  cast = jax.sharding.reshard(params, on(reduced={'data'}))
  value, grads = jax.value_and_grad(loss)(cast, x, y)
  moments = meshes.moments(grads, batch_size=len(x) // jax.device_count())
  grads = meshes.reduce(grads, rule, like=params)
  updates, state = optimizer.update(grads, state, params)
  return optax.apply_updates(params, updates), state, value, moments


rng = np.random.default_rng(0)
params = jax.device_put({'in': rng.normal(size=(4, 32)).astype('f') / 2,
                         'out': rng.normal(size=(32, 1)).astype('f') / 6}, on())
state = optimizer.init(params)
x = rng.normal(size=(64, 4)).astype('f')
y = np.sin(x[:, :1] * x[:, 1:2])
x, y = jax.device_put((x, y), on('data'))
for _ in range(40):
  params, state, value, moments = step(params, state, x, y)
bound = gradiv.batch_size_bound(gradiv.estimate(moments))
print(f'loss {value:.3f}, batch-size bound {bound:.0f}')
