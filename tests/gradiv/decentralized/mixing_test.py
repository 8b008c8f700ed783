"""Mixing with the neighbors: its result, and the messages it compiles to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

import gradiv
from experiments.cost import collectives
from gradiv import decentralized
from gradiv.decentralized import _permutes, topology
from tests import helpers

RNG = np.random.default_rng(17)
STAR = topology.star(8)
TREE = topology.metropolis(topology.binary_tree(8))
MATRICES = (
  ('ring', topology.ring(8)), ('torus', topology.torus(4, 2)),
  ('hypercube', topology.hypercube(8)), ('star', STAR),
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
  """Compute W X in float64."""
  return jax.tree.map(lambda x: np.tensordot(
    w, np.asarray(x, np.float64), 1), tree)


def run(fn, tree, axis='workers', backend='vmap', **kwargs):
  return gradiv.map_workers(fn, axis, backend=backend, **kwargs)(tree)


class MixTest(parameterized.TestCase):

  @parameterized.named_parameters(*MATRICES)
  @pytest.mark.slow
  def test_is_the_matrix_product(self, w):
    n = len(w)
    tree = sample(n)
    for backend, axis in ONE_EACH if w is STAR else ONE_EACH[::2]:
      mixed = run(lambda x: decentralized.mix(x, w, axis), tree, axis, backend)
      self.assertEqual(mixed['half'].dtype, jnp.bfloat16)
      half = mixed.pop('half')
      exact = dense(w, tree)
      np.testing.assert_allclose(
        np.float32(half), exact.pop('half'), 0.01, 0.01)
      helpers.assert_close(mixed, exact, 1e-6, 1e-6)

  @parameterized.parameters(*SEVERAL)
  def test_several_workers_on_a_device(self, backend, axis):
    devices = jax.devices()[:4] if backend != 'vmap' else None
    for w in (topology.exponential(16),
              topology.random_matching(16, 1, seed=4)[0]):
      tree = {'x': jnp.float32(RNG.normal(size=(16, 5)))}
      mixed = run(lambda x: decentralized.mix(x, w, axis), tree, axis, backend,
                  devices=devices)
      helpers.assert_close(mixed, dense(w, tree), 1e-6, 1e-6)

  def test_nan_reaches_no_one(self):
    self.check_nan(STAR, (ONE_EACH[0], SEVERAL[2]))
    self.check_nan(TREE, ONE_EACH[2:])

  @pytest.mark.slow
  def test_nan_reaches_no_one_in_every_layout(self):
    for w in (STAR, TREE):
      self.check_nan(w, (*ONE_EACH[::2], *SEVERAL[::2]))

  def check_nan(self, w, layouts):
    rows = RNG.normal(size=(8, 5))
    rows[1, 2] = np.nan
    others = np.arange(8) != 1
    kept = np.where(others, w, 0)
    kept += np.diag(1 - kept.sum(1))
    expected = kept @ np.nan_to_num(rows)
    for backend, axis in layouts:
      devices = jax.devices()[:4] if (
        axis == SEVERAL[0][1] and backend != 'vmap') else None
      mixed = np.asarray(run(lambda x: decentralized.mix(x, w, axis),
                             jnp.float32(rows), axis, backend,
                             devices=devices))
      np.testing.assert_allclose(
        mixed[others], expected[others], 1e-5, 1e-6)
      self.assertTrue(np.isnan(mixed[1, 2]))

  def test_64_workers_on_8_devices(self):
    w, axis = topology.ring(64), ('devices', 'virtual')
    tree = {'x': jnp.float32(RNG.normal(size=(64, 5)))}
    mixed = run(lambda x: decentralized.mix(x, w, axis), tree, axis,
                'shard_map', devices=jax.devices())
    helpers.assert_close(mixed, dense(w, tree), 1e-6, 1e-6)

  def test_equal_parameters_stay_exactly_as_they_are(self):
    x = jnp.broadcast_to(jnp.float32(RNG.normal(size=40)), (8, 40))
    for w in (topology.torus(4, 2), topology.exponential(8),
              np.float32(topology.ring(8))):
      mixed = run(lambda x: decentralized.mix(x, w, 'workers'), x)
      np.testing.assert_array_equal(mixed, x)

  def test_consensus_distance(self):
    rows = RNG.normal(size=(6, 4))
    expected = np.mean(np.sum((rows - rows.mean(0))**2, 1))
    seen = run(lambda x: decentralized.consensus_distance(
      {'a': x[:1], 'b': x[1:]}, 'workers'), jnp.float32(rows))
    np.testing.assert_allclose(seen, np.full(6, expected), 1e-5)

  @parameterized.parameters(
    (topology.ring(5), jnp.float32, r'mixing_matrix.*\[4, 4\]'),
    (topology.one_peer_exponential(4), jnp.float32, 'mixing_matrix'),
    (topology.ring(4), jnp.int32, 'tree has dtype int32'))
  def test_bad_arguments_are_refused_while_tracing(self, w, dtype, message):
    with self.assertRaisesRegex(ValueError, message):
      run(lambda x: decentralized.mix(x, w, 'workers'), jnp.ones((4, 2), dtype))

  def test_random_graphs_need_as_many_permutes_as_their_degree(self):
    for seed in range(30):
      rng = np.random.default_rng(seed)
      n = int(rng.integers(2, 12))
      w = sum(np.eye(n)[rng.permutation(n)] for _ in range(4)) / 4
      _, hops = _permutes.make_plan(w.reshape(n, 1, n, 1))
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
    """Compile one step of mixing two leaves; return the program."""
    from jax.sharding import Mesh, PartitionSpec as P
    mesh = Mesh(np.array(jax.devices()[:devices]), ('workers',))
    tree = {'a': jnp.zeros((workers, 300)), 'b': jnp.zeros((workers, 7, 5))}
    fn = lambda x: decentralized.mix(x, w, axis)
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
    found = collectives.collectives(self.program(w, 8, 8, 'workers'))
    self.assertEqual(found, [('collective-permute', 335)] * permutes)

  def test_several_on_a_device_send_what_crosses(self):
    text = self.program(topology.ring(32), 32, 8, ('workers', 'virtual'))
    self.assertEqual(collectives.collectives(text),
                     [('collective-permute', 335)] * 2)


if __name__ == '__main__':
  absltest.main()
