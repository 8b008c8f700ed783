"""Decentralized SGD: in three orders, on every backend."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv import decentralized
from gradiv.decentralized import topology
from tests import helpers
from tests.gradiv.decentralized.mixing_test import (
  ONE_EACH,
  RNG,
  SEVERAL,
  run,
)


class GossipTest(parameterized.TestCase):
  """On a quadratic per worker, against NumPy."""

  N, RATE = 8, 0.2

  def reference(self, bank, order, curvature, centers, steps):
    x = np.zeros_like(centers)
    if order == 'cta':
      x = bank[0] @ x
    for t in range(steps):
      u = -self.RATE * curvature * (x - centers)
      w = bank[(t + (order == 'cta')) % len(bank)]
      x = w @ x + u if order == 'awc' else w @ (x + u)
    return x

  def train(self, bank, order, curvature, centers, steps, axis, backend):
    tx = optax.chain(optax.sgd(self.RATE), decentralized.mix_by_gossip(
      bank, axis, order=order))

    def run_all(c):
      def step(carry, _):
        x, state = carry
        updates, state = tx.update(curvature * (x - c), state, x)
        return (optax.apply_updates(x, updates), state), None

      x = jnp.zeros(3)
      return jax.lax.scan(step, (x, tx.init(x)), None, length=steps)[0]

    return gradiv.map_workers(run_all, axis, backend=backend)(
      jnp.float32(centers))

  @parameterized.parameters(*decentralized.ORDERS)
  @pytest.mark.slow
  def test_orders_on_every_backend(self, order):
    centers = RNG.normal(size=(self.N, 3))
    matching = topology.random_matching(8, 5, seed=2)
    for bank, runs in (
        (topology.ring(8), (ONE_EACH[0], SEVERAL[2])),
        (topology.one_peer_exponential(8), (ONE_EACH[0],)),
        (matching, (ONE_EACH[0], ONE_EACH[2], SEVERAL[2]))):
      expected = self.reference(
        topology.check(bank), order, 1.3, centers, 50)
      for backend, axis in runs:
        x, state = self.train(bank, order, 1.3, centers, 50, axis, backend)
        np.testing.assert_allclose(x, expected, 1e-5, 1e-6)
        np.testing.assert_array_equal(state[-1].count, 50)

  @parameterized.named_parameters(
    ('exponential', topology.exponential(8)),
    ('finite_time', topology.finite_time(8, 2)))
  def test_stacked_and_sharded_agree_after_50_steps(self, w):
    self.check_agree(w)

  @parameterized.named_parameters(
    ('star', topology.star(8)), ('hierarchical', topology.hierarchical(
      topology.ring(4), topology.complete(2))))
  @pytest.mark.slow
  def test_so_do_those_of_other_graphs(self, w):
    self.check_agree(w)

  def check_agree(self, w):
    centers = RNG.normal(size=(self.N, 3))
    run = lambda backend: np.asarray(self.train(
      w, 'awc', 0.9, centers, 50, 'workers', backend)[0])
    np.testing.assert_allclose(run('shard_map'), run('vmap'), 0, 1e-6)

  def test_half_precision_updates_do_not_round_the_pull(self):
    tx = decentralized.mix_by_gossip(topology.ring(8), 'workers')
    x = jnp.float32(RNG.normal(size=(8, 40)))
    moved = run(lambda x: tx.update(
      jnp.zeros(40, jnp.bfloat16), tx.init(x), x)[0], x)
    self.assertEqual(moved.dtype, jnp.float32)
    np.testing.assert_allclose(np.mean(moved, 0), 0, atol=1e-7)

  def test_the_mean_moves_by_the_mean_of_all_steps(self):
    # Curvatures of each worker's own, and graphs in turn.
    h = RNG.uniform(0.5, 1.5, size=(self.N, 1))
    centers = RNG.normal(size=(self.N, 3))
    bank = topology.random_matching(8, 3, seed=7)
    for order in decentralized.ORDERS:
      tx = optax.chain(optax.sgd(self.RATE), decentralized.mix_by_gossip(
        bank, 'workers', order=order))

      def steps(c, h, x):
        def step(carry, _):
          x, state = carry
          grad = h * (x - c)
          updates, state = tx.update(grad, state, x)
          return (x + updates, state), (x, grad)

        return jax.lax.scan(step, (x, tx.init(x)), None, length=12)[1]

      x, grads = (np.asarray(y).mean(0) for y in gradiv.map_workers(
        steps, 'workers')(*map(jnp.float32, (
          centers, h, RNG.normal(size=(self.N, 3))))))
      np.testing.assert_allclose(
        x[1:] - x[:-1], -self.RATE * grads[:-1], 1e-3, 1e-6)

  def test_fixed_point_of_awc(self):
    # (I − W + αhI)⁻¹ αh c.
    centers, h = RNG.normal(size=(self.N, 3)), 1.1
    w, rate = topology.lazy(topology.ring(8)), self.RATE
    x, _ = self.train(w, 'awc', h, centers, 400, 'workers', 'vmap')
    fixed = np.linalg.solve(
      np.eye(8) - w + rate * h * np.eye(8), rate * h * centers)
    np.testing.assert_allclose(x, fixed, 1e-4, 1e-5)

  def test_stability_of_awc_and_atc(self):
    # αh = 0.8: above 1 + λ_min = 2/3 of the ring, below 2.
    centers = RNG.normal(size=(self.N, 3))
    x, _ = self.train(
      topology.ring(8), 'awc', 4., centers, 200, 'workers', 'vmap')
    self.assertGreater(np.abs(x).max(), 1e3)
    x, _ = self.train(
      topology.ring(8), 'atc', 4., centers, 200, 'workers', 'vmap')
    self.assertLess(np.abs(x).max(), 10)

  def test_edge_of_awc(self):
    # The mode +-+- of the ring grows by |λ_min − αh| a step, λ_min = −1/3.
    tx = optax.chain(optax.sgd(1.0), decentralized.mix_by_gossip(
      topology.ring(8), 'workers'))

    def steps(x, rate):
      def step(carry, _):
        updates, state = tx.update(rate * carry[0], *carry[::-1])
        return (carry[0] + updates, state), None

      return jax.lax.scan(step, (x, tx.init(x)), None, length=40)[0][0]

    mapped = gradiv.map_workers(steps, 'workers', in_axes=(0, None))
    for rate in 0.6, 0.66, 0.7:
      seen = mapped(jnp.float32([1, -1] * 4), jnp.float32(rate))
      np.testing.assert_allclose(np.abs(seen), (1 / 3 + rate)**40, 1e-4)

  def test_edge_of_atc(self):
    # The consensus grows by |1 − αh| a step, for every W.
    tx = optax.chain(optax.sgd(1.0), decentralized.mix_by_gossip(
      topology.ring(8), 'workers', order='atc'))
    step = gradiv.map_workers(
      lambda x, rate: x + tx.update(rate * x, tx.init(x), x)[0], 'workers',
      in_axes=(0, None))
    for rate in 1.9, 1.99, 2.05:
      x = jnp.ones(8)
      for _ in range(3):
        x = step(x, jnp.float32(rate))
      np.testing.assert_allclose(x, (1 - rate)**3, 1e-5)

  @parameterized.parameters(('awc', 0.09935), ('atc', 0.02574))
  def test_consensus_variance(self, order, published):
    # α = 0.3, h = 1, noise of variance 1 in each of d coordinates.
    rate, d = 0.3, 4000
    w, values = topology.ring(8), np.linalg.eigvalsh(topology.ring(8))[:-1]
    exact = np.sum(
      rate**2 / (1 - (values - rate)**2) if order == 'awc' else
      (rate * values)**2 / (1 - (values * (1 - rate))**2)) / 8
    self.assertAlmostEqual(exact, published, delta=1e-5)
    tx = optax.chain(optax.sgd(rate), decentralized.mix_by_gossip(
      w, 'workers', order=order))

    def steps(x):
      key = gradiv.worker_key(jax.random.key(5), 'workers')

      def step(carry, t):
        x, state = carry
        noise = jax.random.normal(jax.random.fold_in(key, t), x.shape)
        updates, state = tx.update(x + noise, state, x)
        return (x + updates, state), None

      x = jax.lax.scan(step, (x, tx.init(x)), jnp.arange(60))[0][0]
      gap = (x - jax.lax.pmean(x, 'workers'))**2
      return jax.lax.pmean(gap, 'workers')

    helpers.assert_mean(run(steps, jnp.zeros((8, d)))[0], exact)

  def test_one_worker_is_sgd(self):
    for order in decentralized.ORDERS:
      tx = optax.chain(optax.sgd(0.5), decentralized.mix_by_gossip(
        topology.ring(1), 'workers', order=order))
      x = run(lambda x: tx.update(x - 3, tx.init(x), x)[0], jnp.ones((1, 2)))
      np.testing.assert_allclose(x, 1.)


class ArgumentsTest(parameterized.TestCase):

  @parameterized.parameters(
    (dict(order='ctd'), "order='ctd'"), (dict(axis_name=''), "axis_name=''"),
    (dict(mixing_matrix=np.ones((2, 2))), 'mixing_matrix'))
  def test_bad_arguments_are_refused_at_construction(self, options, message):
    options = dict(mixing_matrix=topology.ring(4), axis_name='workers') | (
      options)
    with self.assertRaisesRegex(ValueError, message):
      decentralized.mix_by_gossip(**options)


if __name__ == '__main__':
  absltest.main()
