"""Mixing with the neighbours: what it computes, and what it sends."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

import gradiv
from experiments import compiled
from gradiv import gossip, topology
from gradiv.gossip import mixing
from tests import helpers

RNG = np.random.default_rng(17)
MATRICES = (
  ('ring', topology.ring(8)), ('torus', topology.torus(4, 2)),
  ('hypercube', topology.hypercube(8)), ('star', topology.star(8)),
  ('exponential', topology.exponential(8)),
  ('complete', topology.complete(8)), ('identity', np.eye(8)),
  ('matching', topology.random_matching(8, 1)[0]),
  ('odd_one_out', topology.finite_time(5)[2]),
)
ONE_EACH = [(backend, 'workers') for backend in ('vmap', 'pmap', 'shard_map')]
SEVERAL = [('vmap', ('devices', 'virtual')), ('pmap', ('devices', 'virtual')),
           ('shard_map', ('devices', 'virtual'))]


def sample(n):
  draw = lambda *shape: jnp.float32(RNG.normal(size=(n, *shape)))
  return {'kernel': draw(3, 2), 'scale': draw(), 'none': None,
          'half': draw(4).astype(jnp.bfloat16)}


def dense(w, tree):
  """W X, in float64."""
  return jax.tree.map(lambda x: np.tensordot(
    w, np.asarray(x, np.float64), 1), tree)


def run(fn, tree, axis='workers', backend='vmap', **kwargs):
  return gradiv.map_workers(fn, axis, backend=backend, **kwargs)(tree)


class MixTest(parameterized.TestCase):

  @parameterized.named_parameters(*MATRICES)
  def test_is_the_matrix_product(self, w):
    n = len(w)
    tree = sample(n)
    for backend, axis in ONE_EACH:
      mixed = run(lambda x: gossip.mix(x, w, axis), tree, axis, backend)
      self.assertEqual(mixed['half'].dtype, jnp.bfloat16)
      half = mixed.pop('half')
      exact = dense(w, tree)
      np.testing.assert_allclose(
        np.float32(half), exact.pop('half'), 0.01, 0.01)
      helpers.assert_close(mixed, exact, 1e-6, 1e-6)

  @parameterized.parameters(*SEVERAL)
  def test_several_workers_on_a_device(self, backend, axis):
    devices = jax.devices()[:4] if backend != 'vmap' else None
    for w in (topology.ring(16), topology.exponential(16),
              topology.random_matching(16, 1, seed=4)[0]):
      tree = {'x': jnp.float32(RNG.normal(size=(16, 5)))}
      mixed = run(lambda x: gossip.mix(x, w, axis), tree, axis, backend,
                  devices=devices)
      helpers.assert_close(mixed, dense(w, tree), 1e-6, 1e-6)

  def test_64_workers_on_8_devices(self):
    w, axis = topology.ring(64), ('devices', 'virtual')
    tree = {'x': jnp.float32(RNG.normal(size=(64, 5)))}
    mixed = run(lambda x: gossip.mix(x, w, axis), tree, axis, 'shard_map',
                devices=jax.devices())
    helpers.assert_close(mixed, dense(w, tree), 1e-6, 1e-6)

  def test_random_graphs_need_as_many_permutes_as_their_degree(self):
    for seed in range(30):
      rng = np.random.default_rng(seed)
      n = int(rng.integers(2, 12))
      w = sum(np.eye(n)[rng.permutation(n)] for _ in range(4)) / 4
      _, hops = mixing._take_apart(w.reshape(n, 1, n, 1))
      off = (w > 0) & ~np.eye(n, dtype=bool)
      degree = max(off.sum(0).max(), off.sum(1).max())
      self.assertLessEqual(len(hops), degree)
      for hop in hops:
        for ends in zip(*hop.pairs):
          self.assertEqual(sorted(ends), list(range(n)))
      pairs = sorted((s, d) for hop in hops for s, d in hop.pairs
                     if hop.weights[d].any())
      self.assertEqual(pairs, sorted(
        (s, d) for d, s in zip(*np.nonzero(off))))


class CompiledTest(parameterized.TestCase):

  def program(self, w, workers, devices, axis):
    """What one step of all leaves compiles to."""
    from jax.sharding import Mesh, PartitionSpec as P
    mesh = Mesh(np.array(jax.devices()[:devices]), ('workers',))
    tree = {'a': jnp.zeros((workers, 300)), 'b': jnp.zeros((workers, 7, 5))}
    fn = lambda x: gossip.mix(x, w, axis)
    body = (lambda x: jax.tree.map(
      lambda y: y[None], fn(jax.tree.map(lambda y: y[0], x)))
      ) if axis == 'workers' else jax.vmap(fn, axis_name='virtual')
    return jax.jit(jax.shard_map(
      body, mesh=mesh, in_specs=P('workers'), out_specs=P('workers'),
      check_vma=False)).lower(tree).compile().as_text()

  @parameterized.parameters(
    (topology.ring(8), 2), (topology.hypercube(8), 3),
    (topology.random_matching(8, 1)[0], 1), (topology.exponential(8), 3))
  def test_permutes_and_no_gather(self, w, permutes):
    found = compiled.collectives(self.program(w, 8, 8, 'workers'))
    self.assertEqual(found, [('collective-permute', 335)] * permutes)

  def test_several_on_a_device_send_what_crosses(self):
    text = self.program(topology.ring(32), 32, 8, ('workers', 'virtual'))
    self.assertEqual(compiled.collectives(text),
                     [('collective-permute', 335)] * 2)


class GossipTest(parameterized.TestCase):
  """Against NumPy, on quadratics of each worker's own."""

  N, RATE = 8, 0.2

  def reference(self, bank, order, curvature, centres, steps):
    x = np.zeros_like(centres)
    if order == 'cta':
      x = bank[0] @ x
    for t in range(steps):
      u = -self.RATE * curvature * (x - centres)
      w = bank[(t + (order == 'cta')) % len(bank)]
      x = w @ x + u if order == 'awc' else w @ (x + u)
    return x

  def train(self, bank, order, curvature, centres, steps, axis, backend):
    tx = optax.chain(optax.sgd(self.RATE), gossip.mix_by_gossip(
      bank, axis, order=order))

    def run_all(c):
      def step(carry, _):
        x, state = carry
        updates, state = tx.update(curvature * (x - c), state, x)
        return (optax.apply_updates(x, updates), state), None

      x = jnp.zeros(3)
      return jax.lax.scan(step, (x, tx.init(x)), None, length=steps)[0]

    return gradiv.map_workers(run_all, axis, backend=backend)(
      jnp.float32(centres))

  @parameterized.product(order=gossip.ORDERS, bank=(
    topology.ring(8), topology.one_peer_exponential(8),
    topology.random_matching(8, 5, seed=2)))
  def test_orders_on_every_backend(self, order, bank):
    centres = RNG.normal(size=(self.N, 3))
    expected = self.reference(
      topology.check(bank), order, 1.3, centres, 50)
    for backend, axis in (*ONE_EACH[::2], SEVERAL[2]):
      x, state = self.train(bank, order, 1.3, centres, 50, axis, backend)
      np.testing.assert_allclose(x, expected, 1e-5, 1e-6)
      np.testing.assert_array_equal(state[-1].count, 50)

  @parameterized.named_parameters(*(m for m in MATRICES if len(m[1]) == 8))
  def test_stacked_is_sharded_after_50_steps(self, w):
    centres = RNG.normal(size=(self.N, 3))
    run = lambda backend: np.asarray(self.train(
      w, 'awc', 0.9, centres, 50, 'workers', backend)[0])
    np.testing.assert_allclose(run('shard_map'), run('vmap'), 0, 1e-6)

  def test_equal_parameters_stay_as_they_are(self):
    x = jnp.broadcast_to(jnp.float32(RNG.normal(size=40)), (8, 40))
    for w in (topology.ring(8), topology.torus(4, 2), topology.exponential(8)):
      mixed = run(lambda x: gossip.mix(x, w, 'workers'), x)
      np.testing.assert_array_equal(mixed, x)

  def test_the_mean_moves_as_in_sgd(self):
    centres = RNG.normal(size=(self.N, 3))
    for order in gossip.ORDERS:
      x, _ = self.train(
        topology.ring(8), order, 0.7, centres, 20, 'workers', 'vmap')
      mean = centres.mean(0) * (1 - (1 - self.RATE * 0.7)**20)
      np.testing.assert_allclose(np.asarray(x).mean(0), mean, 1e-4)

  def test_fixed_point_of_awc(self):
    # (I − W + αhI)⁻¹ αh c.
    centres, h = RNG.normal(size=(self.N, 3)), 1.1
    w, rate = topology.lazy(topology.ring(8)), self.RATE
    x, _ = self.train(w, 'awc', h, centres, 400, 'workers', 'vmap')
    fixed = np.linalg.solve(
      np.eye(8) - w + rate * h * np.eye(8), rate * h * centres)
    np.testing.assert_allclose(x, fixed, 1e-4, 1e-5)

  def test_stability_of_awc_and_atc(self):
    # αh = 0.8: above 1 + λ_min = 2/3 of the ring, below 2.
    centres = RNG.normal(size=(self.N, 3))
    x, _ = self.train(
      topology.ring(8), 'awc', 4., centres, 200, 'workers', 'vmap')
    self.assertGreater(np.abs(x).max(), 1e3)
    x, _ = self.train(
      topology.ring(8), 'atc', 4., centres, 200, 'workers', 'vmap')
    self.assertLess(np.abs(x).max(), 10)

  @parameterized.parameters(0.6, 0.66, 0.7)
  def test_edge_of_awc(self, curvature_rate):
    # The mode +-+- of the ring grows by |λ_min − αh| a step, λ_min = −1/3.
    start = jnp.float32([1, -1] * 4)
    tx = optax.chain(optax.sgd(1.0), gossip.mix_by_gossip(
      topology.ring(8), 'workers'))

    def steps(x):
      def step(carry, _):
        updates, state = tx.update(curvature_rate * carry[0], *carry[::-1])
        return (carry[0] + updates, state), None

      return jax.lax.scan(step, (x, tx.init(x)), None, length=40)[0][0]

    np.testing.assert_allclose(
      np.abs(run(steps, start)), (1 / 3 + curvature_rate)**40, 1e-4)

  @parameterized.parameters(('awc', 0.09935), ('atc', 0.02574))
  def test_consensus_variance(self, order, published):
    # α = 0.3, h = 1, noise of variance 1 in each of d coordinates.
    rate, d = 0.3, 4000
    w, values = topology.ring(8), np.linalg.eigvalsh(topology.ring(8))[:-1]
    exact = np.sum(
      rate**2 / (1 - (values - rate)**2) if order == 'awc' else
      (rate * values)**2 / (1 - (values * (1 - rate))**2)) / 8
    self.assertAlmostEqual(exact, published, delta=1e-5)
    tx = optax.chain(optax.sgd(rate), gossip.mix_by_gossip(
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
    for order in gossip.ORDERS:
      tx = optax.chain(optax.sgd(0.5), gossip.mix_by_gossip(
        topology.ring(1), 'workers', order=order))
      x = run(lambda x: tx.update(x - 3, tx.init(x), x)[0], jnp.ones((1, 2)))
      np.testing.assert_allclose(x, 1.)

  def test_consensus_distance(self):
    rows = RNG.normal(size=(6, 4))
    expected = np.mean(np.sum((rows - rows.mean(0))**2, 1))
    seen = run(lambda x: gossip.consensus_distance(
      {'a': x[:1], 'b': x[1:]}, 'workers'), jnp.float32(rows))
    np.testing.assert_allclose(seen, np.full(6, expected), 1e-5)


class ArgumentsTest(parameterized.TestCase):

  @parameterized.parameters(
    (dict(order='ctd'), "order='ctd'"), (dict(axis_name=''), "axis_name=''"),
    (dict(mixing_matrix=np.ones((2, 2))), 'mixing_matrix is not doubly'))
  def test_at_construction(self, options, message):
    options = dict(mixing_matrix=topology.ring(4), axis_name='workers') | (
      options)
    with self.assertRaisesRegex(ValueError, message):
      gossip.mix_by_gossip(**options)

  def test_while_tracing(self):
    x = jnp.ones((4, 2))
    with self.assertRaisesRegex(ValueError, r'must be \[4, 4\]'):
      run(lambda x: gossip.mix(x, topology.ring(5), 'workers'), x)
    with self.assertRaisesRegex(ValueError, 'takes a sequence'):
      run(lambda x: gossip.mix(
        x, topology.one_peer_exponential(4), 'workers'), x)
    tx = gossip.mix_by_gossip(topology.ring(4), 'workers')
    with self.assertRaisesRegex(ValueError, 'params=None'):
      run(lambda x: tx.update(x, tx.init(x))[0], x)
    with self.assertRaisesRegex(ValueError, 'dtype int32'):
      run(lambda x: gossip.mix(x, topology.ring(4), 'workers'),
          jnp.ones(4, jnp.int32))


if __name__ == '__main__':
  absltest.main()
