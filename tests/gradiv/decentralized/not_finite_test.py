"""A worker that is not finite is left out by its neighbors, and counted."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import AxisType, PartitionSpec as P

import gradiv
from gradiv import decentralized, topology
from tests import helpers
from tests.gradiv.decentralized import runs
from tests.gradiv.decentralized.mixing_test import ONE_EACH, SEVERAL

W = topology.ring(8)
X = np.float32(np.random.default_rng(3).normal(size=(8, 5)))
WITHOUT_1 = np.arange(8) != 1


def stepped(tx, x, grads, axis='workers', backend='vmap', steps=1):
  """Take steps, each of the first gradient; return x and the states."""
  def run(x, g):
    state = tx.init(x)
    for _ in range(steps):
      updates, state = tx.update(g, state, x)
      x = optax.apply_updates(x, updates)
    return x, state

  devices = jax.devices()[:4] if axis != 'workers' and (
    backend != 'vmap') else None
  return gradiv.map_workers(run, axis, backend=backend, devices=devices)(
    jnp.asarray(x), jnp.asarray(grads, jnp.float32))


def left_out(states):
  """Find the only counter among the states [n] of a chain."""
  counts = optax.tree.get_all_with_path(states, 'num_left_out')
  return np.sum([x for _, x in counts], 0)


def without(w, worker):
  """Give the weights of a worker to those that it leaves out."""
  w = np.array(w)
  w[:, worker] = 0
  return w + np.diag(1 - w.sum(1))


class NeighborsTest(parameterized.TestCase):

  @parameterized.parameters(np.nan, np.inf)
  def test_a_neighbor_is_left_out_and_its_weight_stays_here(self, value):
    bad = X.copy()
    bad[1, 2] = value
    for backend, axis in (*ONE_EACH[::2], SEVERAL[0]):
      x, states = stepped(
        decentralized.mix_by_gossip(W, axis), bad, 0 * X, axis, backend)
      expected = without(W, 1) @ np.nan_to_num(bad, posinf=0)
      np.testing.assert_allclose(
        x[WITHOUT_1], expected[WITHOUT_1], 1e-5, 1e-6)
      np.testing.assert_array_equal(
        left_out(states)[WITHOUT_1], [1, 1, 0, 0, 0, 0, 0])
      # A symmetric matrix stays doubly stochastic among the others.
      np.testing.assert_allclose(
        x[WITHOUT_1].mean(0), bad[WITHOUT_1].mean(0), 1e-4, 1e-6)

  def test_a_directed_ring_moves_the_mean_of_the_others(self):
    # What worker 1 would have passed on to worker 2 stays with that.
    w = (np.eye(8) + np.roll(np.eye(8), 1, 0)) / 2
    bad = X.copy()
    bad[1] = np.nan
    x, _ = stepped(decentralized.mix_by_gossip(w, 'workers'), bad, 0 * X)
    weights = without(w, 1)[WITHOUT_1].sum(0)[WITHOUT_1]
    np.testing.assert_allclose(weights, [.5, 1.5, 1, 1, 1, 1, 1])
    np.testing.assert_allclose(
      x[WITHOUT_1].sum(0), weights @ bad[WITHOUT_1], 1e-4, 1e-6)

  def test_all_workers_take_the_mean_of_the_finite_ones(self):
    bad = X.copy()
    bad[1, 0] = np.inf
    x, states = stepped(decentralized.mix_by_gossip(
      topology.complete(8), 'workers'), bad, 0 * X)
    np.testing.assert_allclose(
      x[WITHOUT_1], np.broadcast_to(bad[WITHOUT_1].mean(0), (7, 5)), 1e-5)
    np.testing.assert_array_equal(left_out(states), 1)

  def test_a_bad_leaf_of_another_dtype_leaves_the_worker_out(self):
    def run(x):
      tree = {'a': x, 'b': x[:1].astype(jnp.bfloat16)}
      tree['b'] = jnp.where(x[0] > 100, jnp.nan, tree['b'])
      return decentralized.mix(tree, W, 'workers')['a']

    bad = X.copy()
    bad[1, 0] = 1e3
    x = gradiv.map_workers(run, 'workers')(jnp.asarray(bad))
    np.testing.assert_allclose(
      np.asarray(x)[[0, 2]], (without(W, 1) @ bad)[[0, 2]], 1e-5)


class UpdatesTest(parameterized.TestCase):

  @parameterized.named_parameters(*runs.ALL)
  @pytest.mark.slow
  def test_a_bad_gradient_stops_no_one(self, make):
    """One worker's gradient is NaN in each step, and all stay finite."""
    tx = make(0.1)
    x, states = stepped(tx, X[:6], np.where(
      np.arange(6)[:, None] == 1, np.nan, X[:6]), steps=4)
    self.assertTrue(np.isfinite(x).all())
    self.assertGreaterEqual(left_out(states)[1], 4)
    for leaf in jax.tree.leaves(states):
      self.assertTrue(np.isfinite(helpers.raw(leaf)).all())

  @parameterized.named_parameters(*runs.ALL)
  @pytest.mark.slow
  def test_bad_parameters_stay_with_the_worker(self, make):
    bad = X[:6].copy()
    bad[1] = np.inf
    x, states = stepped(make(0.1), bad, np.zeros_like(bad), steps=5)
    others = np.arange(6) != 1
    self.assertTrue(np.isfinite(x[others]).all())
    self.assertGreater(left_out(states)[others].sum(), 0)

  @pytest.mark.slow
  def test_the_others_move_as_if_the_step_had_been_zero(self):
    for order in ('awc', 'atc'):
      tx = optax.chain(optax.sgd(0.1), decentralized.mix_by_gossip(
        W, 'workers', order=order))
      bad, zero = X.copy(), X.copy()
      bad[1], zero[1] = np.nan, 0
      helpers.assert_same(*(stepped(tx, X, grads)[0] for grads in (bad, zero)))

  @pytest.mark.slow
  def test_an_outer_step_takes_the_mean_of_the_finite_workers(self):
    bad = np.zeros((8, 5), np.float32)
    bad[1] = np.nan
    for tx in (gradiv.local_sgd(1, 'workers'), decentralized.mix_by_outer_step(
        optax.sgd(1.), 2, 'workers', delay=1)):
      x, states = stepped(tx, bad, X, steps=2)
      self.assertTrue(np.isfinite(x[WITHOUT_1]).all())
      np.testing.assert_allclose(x[0], x[7], 1e-6)
      self.assertGreaterEqual(left_out(states).min(), 1)


# Functions of the axis, for four workers.
RING = topology.ring(4)
IN_SHARDS = {
  'gossip': lambda axis: decentralized.mix_by_gossip(RING, axis),
  'adapt_then_combine': lambda axis: decentralized.mix_by_gossip(
    RING, axis, order='atc'),
  'complete': lambda axis: decentralized.mix_by_gossip(
    topology.complete(4), axis),
  'exact_diffusion': lambda axis: decentralized.mix_by_exact_diffusion(
    topology.lazy(RING), axis),
  'tracking': lambda axis: optax.chain(
    decentralized.mix_by_gradient_tracking(RING, axis),
    decentralized.mix_by_gossip(RING, axis)),
  'momentum': lambda axis: decentralized.mix_by_quasi_global_momentum(
    RING, axis),
  'push_sum': lambda axis: decentralized.mix_by_push_sum(RING, axis),
  'relay': lambda axis: decentralized.mix_by_relay(topology.chain(4), axis),
  'choco': lambda axis: decentralized.mix_by_choco(
    RING, axis, optax.identity(), consensus_step=0.5),
  'local_sgd': lambda axis: gradiv.local_sgd(2, axis),
}


class ShardsTest(parameterized.TestCase):

  def _check(self, name, bad_params, bad_grads):
    """Four workers in two shards, as each is whole: the same, all of it.

    The number that is not finite lies in one shard of worker 1.
    """
    rng = np.random.default_rng(5)
    params = {'cut': rng.normal(size=(4, 6)), 'whole': rng.normal(size=(4, 3))}
    grads = {'cut': rng.normal(size=(4, 6)), 'whole': rng.normal(size=(4, 3))}
    params['cut'][1, 2] *= bad_params
    grads['cut'][1, 2] *= bad_grads
    both = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (params, grads))
    tx = IN_SHARDS[name]('workers')

    def run(params, grads):
      state = tx.init(params)
      for _ in range(2):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
      return params, sum(x for _, x in optax.tree.get_all_with_path(
        state, 'num_left_out'))

    expected = gradiv.map_workers(run, 'workers')(*both)
    mesh = jax.make_mesh((4, 2), ('workers', 'model'), axis_types=(
      AxisType.Auto,) * 2)
    specs = {'cut': P('workers', 'model'), 'whole': P('workers')}
    row = lambda fn: lambda *trees: jax.tree.map(
      lambda x: x[None], fn(*jax.tree.map(lambda x: x[0], trees)))
    found = jax.jit(jax.shard_map(
      row(run), mesh=mesh, in_specs=(specs, specs),
      out_specs=(specs, P('workers'))))(*both)
    # Types and numbers: out_specs says that the counters are common to shards.
    helpers.assert_close(found, expected, 1e-5, 1e-6)
    self.assertGreater(np.sum(found[1]), 0)

  def test_no_shard_takes_what_another_leaves_out(self):
    self._check('gossip', np.nan, 1)
    self._check('gossip', 1, np.nan)

  @parameterized.product(name=tuple(IN_SHARDS), which=(0, 1))
  @pytest.mark.slow
  def test_all_mixers(self, name, which):
    self._check(name, *((np.nan, 1), (1, np.nan))[which])


if __name__ == '__main__':
  absltest.main()
