"""`nnx.Optimizer` takes every transformation, donated by `nnx.jit` too."""

import jax
import jax.numpy as jnp
import optax
from absl.testing import absltest, parameterized
from flax import nnx

import gradiv
from tests.contract import table

ALONE = [row for row in table.DISTINCT if row.kind == 'alone']


def loss(model, x):
  return jnp.mean(model(x)**2)


def model():
  return nnx.Linear(3, 2, rngs=nnx.Rngs(0))


class NnxTest(parameterized.TestCase):

  @parameterized.named_parameters(*table.named(table.DISTINCT))
  def test_an_optimizer_can_be_made(self, row):
    optimizer = nnx.Optimizer(
      model(), optax.chain(row.make(), optax.sgd(0.1)), wrt=nnx.Param)
    leaves = jax.tree.leaves(nnx.state(optimizer))
    self.assertNotEmpty(leaves)

  @parameterized.named_parameters(*table.named(
    [row for row in ALONE if not row.needs(1.0)]))
  def test_donated_steps(self, row):
    net = model()
    optimizer = nnx.Optimizer(
      net, optax.chain(row.make(), optax.sgd(0.1)), wrt=nnx.Param)

    @nnx.jit(donate_argnums=(0, 1))
    def step(net, optimizer, x):
      optimizer.update(net, nnx.grad(loss)(net, x))

    x = jnp.ones((5, 3))
    for _ in range(10):
      step(net, optimizer, x)
    self.assertTrue(bool(jnp.isfinite(loss(net, x))))
    jax.random.bits(table.KEY)

  def test_donated_steps_of_workers(self):
    net = model()
    optimizer = nnx.Optimizer(net, optax.chain(
      gradiv.track_moments('workers', batch_size=5, groups=gradiv.by_layer),
      gradiv.aggregate_by_agreement(1.5, 'workers', key=table.KEY),
      gradiv.skip_zero_updates(optax.adam(0.1))), wrt=nnx.Param)

    @nnx.jit(donate_argnums=(0, 1))
    def step(net, optimizer, x):
      worker = nnx.vmap(
        lambda net, optimizer, x: optimizer.update(
          net, nnx.grad(loss)(net, x)),
        in_axes=(None, None, 0), out_axes=None, axis_name='workers')
      worker(net, optimizer, x)

    x = jax.random.normal(jax.random.key(0), (4, 5, 3))
    first = loss(net, x[0])
    for _ in range(10):
      step(net, optimizer, x)
    self.assertLess(loss(net, x[0]), first)
    jax.random.bits(table.KEY)


if __name__ == '__main__':
  absltest.main()
