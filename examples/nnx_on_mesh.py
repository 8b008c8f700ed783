"""A Flax NNX model and optimizer under nnx.jit, with a chain on a mesh.

  python -m examples.nnx_on_mesh

The compiled program contains, of the gradient's D elements, one all-to-all and
one all-gather, and all-reduces of n² numbers and a few scalars; `track_moments`
adds the all-reduce of the mean that it compares with.
"""

import os

os.environ.setdefault('NPROC', '32')  # devices are threads on a CPU

import jax
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import gradiv
from gradiv import meshes

mesh = jax.make_mesh(
  (jax.device_count(),), ('data',), axis_types=(AxisType.Auto,))


class Network(nnx.Module):
  def __init__(self, rngs):
    self.hidden = nnx.Linear(2, 32, rngs=rngs)
    self.out = nnx.Linear(32, 2, rngs=rngs)

  def __call__(self, x):
    return self.out(nnx.relu(self.hidden(x)))


model = Network(nnx.Rngs(0))
graph = nnx.graphdef(model)
tx = meshes.on_mesh(optax.chain(
  gradiv.track_moments('data', batch_size=16),
  gradiv.aggregate_by_agreement(1.2, 'data'), optax.adam(1e-2)), mesh, 'data')
optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)


def loss(params, batch):
  x, y = batch
  logits = nnx.merge(graph, params)(x)
  return optax.losses.softmax_cross_entropy_with_integer_labels(
    logits, y).mean()


value_and_grad = meshes.per_worker_value_and_grad(loss, mesh, 'data')


@nnx.jit(donate_argnums=(0, 1))
def step(model, optimizer, batch):
  losses, grads = value_and_grad(nnx.state(model, nnx.Param), batch)
  optimizer.update(model, grads)
  return losses.mean()


rng = np.random.default_rng(0)
for _ in range(40):
  x = rng.normal(size=(16 * jax.device_count(), 2)).astype('f')
  batch = x, (x[:, 0] * x[:, 1] > 0).astype('i')
  value = step(model, optimizer, jax.device_put(
    batch, NamedSharding(mesh, P('data'))))
print(f'loss {value:.3f}')
