"""Decentralised optimizers on every backend, compressed, and misused."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

import gradiv
from gradiv.decentralized import topology
from tests import helpers
from tests.gradiv.decentralized import gossip_runs
from tests.gradiv.decentralized.gossip_runs import (
  BIASED,
  DIGRAPH,
  EXACT,
  RATE,
  START,
  N,
  W,
  chain,
  train,
)


class CompressedTest(parameterized.TestCase):

  def test_all_of_it_at_once_is_atc(self):
    with helpers.double_precision():
      choco, _ = train(chain(RATE, gradiv.mix_by_choco(
        W, 'workers', optax.identity(), consensus_step=1.0)), 20, start=START)
      plain, _ = train(chain(RATE, gradiv.mix_by_gossip(
        W, 'workers', order='atc')), 20, start=START)
    np.testing.assert_allclose(choco, plain, 1e-10, 1e-12)

  @parameterized.named_parameters(
    ('top_k', lambda: gradiv.keep_top_k(0.25)),
    ('signs', gradiv.keep_signs),
    ('rounded', lambda: gradiv.quantize_updates(
      4, key=jax.random.key(0), axis_name='workers')))
  def test_keeps_the_mean_and_agrees(self, make):
    start = gossip_runs.RNG.normal(size=(8, 24))
    step_size = gradiv.tune_consensus_step(
      topology.ring(8), 'workers', make(),
      {'a': np.zeros(1, np.float32), 'b': np.zeros(23, np.float32)},
      key=jax.random.key(1), candidates=(1.0, 0.5, 0.25, 0.12, 0.06, 1e-3))
    self.assertGreater(step_size, 1e-3)
    tx = gradiv.mix_by_choco(topology.ring(8), 'workers', make(),
                             consensus_step=step_size)
    with helpers.double_precision():
      x, _ = train(tx, 600, start=start, centres=start, curvatures=np.zeros(
        (8, 1)))
    np.testing.assert_allclose(np.mean(x, 0), start.mean(0), 0, 1e-10)
    spread = lambda x: np.mean((x - np.mean(x, 0))**2)
    self.assertLess(spread(x), 1e-3 * spread(start))

  def test_tuner_takes_the_soonest(self):
    # All of W x at once: the slowest mode of the ring of 4 falls by 1/3.
    self.assertEqual(gradiv.tune_consensus_step(
      topology.ring(4), 'workers', optax.identity(), np.zeros(50, np.float32),
      key=jax.random.key(2)), 1.0)
    with self.assertRaisesRegex(ValueError, 'must be one or more'):
      gradiv.tune_consensus_step(
        topology.ring(4), 'workers', optax.identity(), np.zeros(1),
        key=jax.random.key(2), candidates=())

  def test_tuner_refuses_what_diverges(self):
    with self.assertRaisesRegex(ValueError, 'none brings the workers closer'):
      gradiv.tune_consensus_step(
        topology.ring(8), 'workers', gradiv.keep_top_k(0.05),
        {'x': np.zeros(60, np.float32)}, key=jax.random.key(1),
        num_steps=60, candidates=(1.0,))


ALL = (*EXACT[:4], EXACT[5], *BIASED)


class BackendsTest(parameterized.TestCase):

  @parameterized.named_parameters(*ALL)
  def test_agree(self, make):
    x, state = train(make(RATE), 50)
    other, other_state = train(
      make(RATE), 50, backend='shard_map', devices=jax.devices()[:N])
    np.testing.assert_allclose(other, x, 0, 1e-6)
    helpers.assert_close(other_state, state, 1e-5, 2e-6)

  @parameterized.named_parameters(*ALL)
  def test_several_workers_on_a_device(self, make):
    x, _ = train(make(RATE), 10)
    axis = 'devices', 'virtual'
    with mock.patch.object(gossip_runs, 'AXIS', axis):
      seen, _ = train(make(RATE), 10, 'shard_map', axis,
                      devices=jax.devices()[:2])
    np.testing.assert_allclose(seen, x, 0, 1e-6)

  @parameterized.named_parameters(*ALL)
  def test_state_may_be_donated(self, make):
    tx = make(RATE)
    x = jnp.ones((N, 2))

    def step(x, state):
      updates, state = tx.update(x, state, x)
      return x + updates, state

    state = gradiv.replicate(tx.init(x[0]), N)
    run = jax.jit(jax.vmap(step, axis_name='workers'), donate_argnums=(0, 1))
    before = jax.tree.map(lambda x: (x.shape, x.dtype), state)
    for _ in range(2):
      x, state = run(x, state)
    self.assertEqual(jax.tree.map(lambda x: (x.shape, x.dtype), state), before)

  @parameterized.named_parameters(*ALL)
  def test_keep_dtypes_and_run_where_types_are_checked(self, make):
    from jax.sharding import Mesh, PartitionSpec as P
    tx = make(RATE)
    x = {'w': jnp.ones((N, 4), jnp.bfloat16)}

    def run(x):
      x = jax.tree.map(lambda x: x[0], x)
      state = gradiv.as_private(tx.init(x), 'workers')

      def step(carry, _):
        x, state = carry
        updates, state = tx.update(x, state, x, unknown=3)
        return (optax.apply_updates(x, updates), state), None

      x, state = jax.lax.scan(step, (x, state), None, length=3)[0]
      return jax.tree.map(lambda x: x[None], x)

    mesh = Mesh(np.array(jax.devices()[:N]), ('workers',))
    end = jax.jit(jax.shard_map(
      run, mesh=mesh, in_specs=P('workers'), out_specs=P('workers')))(x)
    self.assertEqual(end['w'].dtype, jnp.bfloat16)
    self.assertTrue((np.float32(end['w']) < 1).all())
    for leaf in jax.tree.leaves(tx.init({'w': jnp.ones(4, jnp.bfloat16)})):
      self.assertNotEqual(leaf.dtype, jnp.bfloat16)


class ArgumentsTest(parameterized.TestCase):

  @parameterized.parameters(
    (lambda: gradiv.mix_by_exact_diffusion(topology.ring(4), 'w'),
     'eigenvalue of -0.333333, .*topology.lazy helps'),
    (lambda: gradiv.mix_by_exact_diffusion(topology.exponential(8), 'w'),
     'multiplied by 1.* a step'),
    (lambda: gradiv.mix_by_gossip(W, ('a', 'b', 'c')), 'at most two names'),
    (lambda: gradiv.mix_by_exact_diffusion(np.eye(3), 'w'),
     'not of a connected graph'),
    (lambda: gradiv.mix_by_exact_diffusion(
      topology.one_peer_exponential(4), 'w'), 'the same at each step'),
    (lambda: gradiv.mix_by_extra(np.eye(2), 'w'), 'not of a connected'),
    (lambda: gradiv.mix_by_gradient_tracking(DIGRAPH.T, 'w'), 'not column-stochastic'),
    (lambda: gradiv.mix_by_push_sum(np.eye(2)[::-1], 'w'), '0 on its diagonal'),
    (lambda: gradiv.mix_by_push_sum([[.5, 0], [.5, 1]], 'w'),
     'not strongly connected'),
    (lambda: gradiv.mix_by_quasi_global_momentum(W, 'w', momentum=1.0),
     'momentum=1.0'),
    (lambda: gradiv.mix_by_quasi_global_momentum(W, 'w', share=0.0),
     'share=0.0'),
    (lambda: gradiv.mix_by_decentlam(W, 'w', momentum=-0.1), 'momentum=-0.1'),
    (lambda: gradiv.mix_by_choco(
      W, 'w', optax.identity(), consensus_step=1.5), 'consensus_step=1.5'),
    (lambda: gradiv.mix_by_relay(W, 'w'), 'not the adjacency of a tree'),
    (lambda: gradiv.mix_by_relay(np.ones((2, 3)), 'w'), r'shape \(2, 3\)'))
  def test_at_construction(self, make, message):
    with self.assertRaisesRegex(ValueError, message):
      make()

  def test_sizes_while_tracing(self):
    for tx, message in (
        (gradiv.mix_by_relay(np.zeros((1, 1)), 'workers'), 'tree of 1 workers'),
        (gradiv.mix_by_extra(W, 'workers'), r'must be \[4, 4\]')):
      with self.assertRaisesRegex(ValueError, message):
        jax.vmap(lambda x: tx.update(x, tx.init(x), x)[0],
                 axis_name='workers')(jnp.ones((4, 2)))

  @parameterized.named_parameters(*EXACT[:2], *BIASED, EXACT[4])
  def test_params_must_be_given(self, make):
    tx = make(RATE)
    with self.assertRaisesRegex(ValueError, 'params=None'):
      jax.vmap(lambda x: tx.update(x, tx.init(x))[0], axis_name='workers')(
        jnp.ones((N, 2)))


if __name__ == '__main__':
  absltest.main()
