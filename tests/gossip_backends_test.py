"""Decentralised optimizers on every backend, compressed, and misused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

import gradiv
from gradiv import topology
from tests import gossip_runs, helpers
from tests.gossip_runs import (
  BIASED, DIGRAPH, EXACT, N, RATE, START, W, chain, train,
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

  def test_tuner_refuses_what_diverges(self):
    with self.assertRaisesRegex(ValueError, 'none brings the workers closer'):
      gradiv.tune_consensus_step(
        topology.ring(8), 'workers', gradiv.keep_top_k(0.05),
        {'x': np.zeros(60, np.float32)}, key=jax.random.key(1),
        num_steps=60, candidates=(1.0,))


class BackendsTest(parameterized.TestCase):

  @parameterized.named_parameters(*EXACT[:4], *BIASED, EXACT[5])
  def test_agree(self, make):
    x, state = train(make(RATE), 10)
    other, other_state = train(
      make(RATE), 10, backend='shard_map', devices=jax.devices()[:N])
    np.testing.assert_allclose(other, x, 0, 1e-6)
    helpers.assert_close(other_state, state, 1e-5, 2e-6)

  @parameterized.named_parameters(*EXACT[:4], *BIASED, EXACT[5])
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


class ArgumentsTest(parameterized.TestCase):

  @parameterized.parameters(
    (lambda: gradiv.mix_by_exact_diffusion(topology.ring(4), 'w'),
     r'eigenvalues from -0.333333: .* above -1/3'),
    (lambda: gradiv.mix_by_exact_diffusion(np.eye(3), 'w'), 'connected'),
    (lambda: gradiv.mix_by_exact_diffusion(
      topology.one_peer_exponential(4), 'w'), 'the same at each step'),
    (lambda: gradiv.mix_by_extra(np.eye(2), 'w'), 'not of a connected'),
    (lambda: gradiv.track_gradients(DIGRAPH.T, 'w'), 'not column-stochastic'),
    (lambda: gradiv.mix_by_push_sum(np.eye(2)[::-1], 'w'), '0 on its diagonal'),
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

  @parameterized.named_parameters(*EXACT[:2], *BIASED, EXACT[4])
  def test_params_must_be_given(self, make):
    tx = make(RATE)
    with self.assertRaisesRegex(ValueError, 'params=None'):
      jax.vmap(lambda x: tx.update(x, tx.init(x))[0], axis_name='workers')(
        jnp.ones((N, 2)))


if __name__ == '__main__':
  absltest.main()
