"""Two kinds of links: one rule inside a host, another between hosts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

import gradiv
from tests import helpers

HOSTS, WORKERS = 2, 4
AXES = ('hosts', 'workers')
RNG = np.random.default_rng(0)


def grads_of(shape=(10,)):
  """One worker of each host points elsewhere than the others."""
  rows = 1 + 0.1 * RNG.normal(size=(HOSTS, WORKERS, *shape))
  rows[0, 2] *= -3
  rows[1, 1] *= -5
  return np.float32(rows)


def on_mesh(fn, private, common=(), backend='shard_map', out_axes=None):
  flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), private)
  devices = np.array(jax.devices()).reshape(HOSTS, WORKERS)
  return helpers.on_workers(fn, flat, common, AXES, backend, out_axes, devices)


class AgreementInsideTest(parameterized.TestCase):

  @parameterized.parameters('vmap', 'shard_map')
  def test_hosts_filter_and_are_averaged(self, backend):
    tx = optax.chain(gradiv.aggregate_by_agreement(0.5, 'workers'),
                     gradiv.aggregate_by_mean('hosts'))
    grads = grads_of()
    found = on_mesh(lambda g, _: tx.update(g, tx.init(g))[0], grads,
                    backend=backend)
    expected = np.mean([grads[0][[0, 1, 3]].mean(0),
                        grads[1][[0, 2, 3]].mean(0)], 0)
    np.testing.assert_allclose(found, expected, 1e-5)

  def test_slices_between_hosts_are_the_same(self):
    sliced = optax.chain(
      gradiv.aggregate_by_agreement(0.5, 'workers', sharded=True),
      gradiv.aggregate_by_mean('hosts'),
      optax.stateless(lambda slices, like: gradiv.aggregation.gather_leaves(
        slices, like, 'workers')))
    whole = optax.chain(gradiv.aggregate_by_agreement(0.5, 'workers'),
                        gradiv.aggregate_by_mean('hosts'))
    grads = {'w': grads_of((7, 3)), 'b': grads_of((2,))}
    update = lambda tx: on_mesh(
      lambda g, _: tx.update(g, tx.init(g), g)[0], grads)
    helpers.assert_close(update(sliced), update(whole), 1e-6, 1e-7)

  def test_a_worker_that_is_not_finite_is_left_out_of_its_host_alone(self):
    tx = optax.chain(gradiv.aggregate_by_agreement(0.5, 'workers'),
                     gradiv.aggregate_by_mean('hosts'))
    grads = grads_of()
    grads[0, 2] = np.nan
    found = on_mesh(lambda g, _: tx.update(g, tx.init(g))[0], grads)
    expected = np.mean([grads[0][[0, 1, 3]].mean(0),
                        grads[1][[0, 2, 3]].mean(0)], 0)
    np.testing.assert_allclose(found, expected, 1e-5)


class OuterStepsBetweenTest(absltest.TestCase):

  def test_diloco_between_hosts(self):
    """A host with four workers is a worker with their mean gradient."""
    alone = optax.chain(optax.sgd(0.1), gradiv.diloco(2, 'hosts'))
    inside = optax.chain(gradiv.aggregate_by_mean('workers'), alone)
    centers = np.float32(RNG.normal(size=(HOSTS, WORKERS, 3)))

    def run(tx, center):
      x = jnp.zeros(3)
      state = tx.init(x)
      for _ in range(5):
        updates, state = tx.update(x - center, state, x)
        x = optax.apply_updates(x, updates)
      return x

    found = on_mesh(lambda c, _: run(inside, c), centers, out_axes=0)
    found = found.reshape(HOSTS, WORKERS, 3)
    expected = helpers.on_workers(
      lambda c, _: run(alone, c), centers.mean(1), (), 'hosts',
      out_axes=0)
    for worker in range(WORKERS):
      np.testing.assert_allclose(found[:, worker], expected, 1e-5, 1e-6)
    self.assertGreater(np.abs(found[0] - found[1]).max(), 1e-3)


if __name__ == '__main__':
  absltest.main()
