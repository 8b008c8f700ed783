"""What all mixing transformations have in common."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

import gradiv
from gradiv import decentralized
from tests import helpers
from tests.gradiv.decentralized.runs import (
  ALL,
  BIASED,
  CENTERS,
  EXACT,
  OPTIMUM,
  RATE,
  N,
  W,
  chain,
  train,
)


class OptimumTest(parameterized.TestCase):

  @parameterized.named_parameters(*EXACT)
  @pytest.mark.slow
  def test_exact_methods_reach_the_optimum(self, make):
    with helpers.double_precision():
      x, _ = train(make(0.1), 1500)
    np.testing.assert_allclose(x, np.broadcast_to(OPTIMUM, x.shape), 0, 1e-8)

  def test_decentralized_sgd_does_not(self):
    x, _ = train(chain(0.1, gradiv.mix_by_gossip(W, 'workers')), 1500)
    self.assertGreater(np.abs(x - OPTIMUM).max(), 1e-2)

  @parameterized.named_parameters(
    ('exact_diffusion', decentralized.mix_by_exact_diffusion),
    ('extra', decentralized.mix_by_extra), ('push_sum',
     decentralized.mix_by_push_sum),
    ('decentlam', lambda w, axis: decentralized.mix_by_decentlam(
      w, axis, momentum=0.0)),
    ('quasi_global', lambda w, axis: decentralized.mix_by_quasi_global_momentum(
      w, axis, momentum=0.0)),
    ('choco', lambda w, axis: decentralized.mix_by_choco(
      w, axis, gradiv.keep_top_k(0.1), consensus_step=0.5)),
    ('relay', decentralized.mix_by_relay),
    ('local_sgd', lambda w, axis: gradiv.local_sgd(3, axis)),
    ('tracking', lambda w, axis: optax.chain(
      decentralized.mix_by_gradient_tracking(w, axis), gradiv.mix_by_gossip(w,
        axis))))
  def test_one_worker_takes_steps_of_sgd(self, make):
    x, _ = train(chain(RATE, make(np.ones((1, 1)), 'workers')), 7,
                 centers=CENTERS[:1], curvatures=np.ones((1, 1)))
    np.testing.assert_allclose(x, CENTERS[:1] * (1 - (1 - RATE)**7), 1e-5)


@pytest.mark.slow
class BackendsTest(parameterized.TestCase):

  @parameterized.named_parameters(*ALL)
  def test_backends_and_layouts_agree(self, make):
    x, state = train(make(RATE), 50)
    other, other_state = train(
      make(RATE), 50, 'shard_map', devices=jax.devices()[:N])
    np.testing.assert_allclose(other, x, 0, 1e-6)
    helpers.assert_close(other_state, state, 1e-5, 2e-6)
    axis = 'devices', 'virtual'  # three workers per device
    several, _ = train(make(RATE, axis), 50, 'shard_map', axis,
                       devices=jax.devices()[:2])
    np.testing.assert_allclose(several, x, 0, 1e-6)

  @parameterized.named_parameters(*ALL)
  def test_donated_half_precision_steps_under_checked_types(self, make):
    tx = make(RATE)
    mesh = Mesh(np.array(jax.devices()[:N]), ('workers',))

    def step(x, state):
      row, own = jax.tree.map(lambda y: y[0], (x, state))
      updates, own = tx.update(row, own, row, unknown=3)
      row = optax.apply_updates(row, updates)
      return jax.tree.map(lambda y: y[None], (row, own))

    run = jax.jit(jax.shard_map(
      step, mesh=mesh, in_specs=P('workers'), out_specs=P('workers')),
      donate_argnums=(0, 1))
    x = {'w': jnp.ones((N, 4), jnp.bfloat16)}
    start = tx.init({'w': jnp.ones(4, jnp.bfloat16)})
    state = gradiv.replicate(start, N)
    kinds = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    before = kinds((x, state))
    for _ in range(3):
      x, state = run(x, state)
    self.assertEqual(kinds((x, state)), before)
    self.assertTrue((np.float32(x['w']) < 1).all())
    for leaf in jax.tree.leaves(start):
      self.assertNotEqual(leaf.dtype, jnp.bfloat16)


class StateTest(parameterized.TestCase):

  PARAMS = {'a': {'w': jnp.ones((4, 3)), 'none': None}, 'scale': jnp.ones(())}

  @parameterized.named_parameters(*ALL)
  def test_init_accepts_templates_and_trees_without_leaves(self, make):
    tx = make(RATE)
    templates = jax.eval_shape(lambda: self.PARAMS)
    kinds = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    self.assertEqual(kinds(tx.init(templates)), kinds(tx.init(self.PARAMS)))
    for empty in ({}, {'none': None}):
      step = jax.vmap(
        lambda x, s, e=empty: tx.update(e, s, e), (0, None),
        axis_name='workers', axis_size=N)
      updates, _ = jax.eval_shape(step, None, tx.init(empty))
      self.assertEqual(updates, empty)

  @parameterized.named_parameters(*ALL)
  def test_no_buffer_is_shared(self, make):
    leaves = jax.tree.leaves((self.PARAMS, make(RATE).init(self.PARAMS)))
    places = [leaf.unsafe_buffer_pointer() for leaf in leaves]
    self.assertLen(set(places), len(places))

  @parameterized.named_parameters(*ALL)
  def test_buffers_lie_where_the_parameters_lie(self, make):
    for kind in (AxisType.Auto, AxisType.Explicit):
      mesh = jax.make_mesh((4,), ('model',), (kind,), devices=jax.devices()[:4])
      params = jax.device_put(
        {'w': jnp.ones((8, 3))}, NamedSharding(mesh, P('model')))
      for leaf in jax.tree.leaves(make(RATE).init(params)):
        self.assertTrue(not leaf.shape or leaf.sharding.is_equivalent_to(
          params['w'].sharding, 2))

  @parameterized.named_parameters(*ALL)
  def test_map_params_finds_the_copies_of_the_parameters(self, make):
    tx = make(RATE)
    state = tx.init(self.PARAMS)
    marked = optax.tree.map_params(tx, jnp.negative, state)
    self.assertEqual(jax.tree.structure(marked), jax.tree.structure(state))
    for leaf, was in zip(jax.tree.leaves(marked), jax.tree.leaves(state)):
      if was.shape:
        np.testing.assert_array_equal(leaf, -was)


class ArgumentsTest(parameterized.TestCase):

  @parameterized.named_parameters(
    ('choco', decentralized.mix_by_choco, ('mixing_matrix',), dict(
      mixing_matrix=W, compressor=optax.identity(), consensus_step=0.4)),
    ('quasi_global', decentralized.mix_by_quasi_global_momentum,
     ('mixing_matrix',),
     dict(mixing_matrix=W, momentum=0.8, decay=0.7)),
    ('decentlam', decentralized.mix_by_decentlam, ('mixing_matrix',), dict(
      mixing_matrix=W, momentum=0.8)),
    ('slow_momentum', decentralized.mix_by_slow_momentum, ('period',), dict(
      period=2, momentum=0.8, learning_rate=0.9)),
    ('diloco', gradiv.diloco,
     ('period', 'num_fragments', 'delay', 'fragment_of'),
     dict(period=2, momentum=0.8, learning_rate=0.9, blend=0.25)))
  @pytest.mark.slow
  def test_numbers_may_be_injected(self, make, static, arguments):
    inject = optax.inject_hyperparams(make, static_args=static)
    seen, state = train(chain(RATE, inject(
      axis_name='workers', **arguments)), 5)
    expected, _ = train(chain(RATE, make(
      axis_name='workers', **arguments)), 5)
    np.testing.assert_allclose(seen, expected, 1e-5, 1e-6)
    numbers = {k for k, v in arguments.items() if isinstance(v, float)}
    self.assertContainsSubset(numbers, state[-1].hyperparams)

  def test_a_traced_matrix_names_the_way_out(self):
    tx = optax.inject_hyperparams(decentralized.mix_by_decentlam)(W, 'workers')
    with self.assertRaisesRegex(ValueError, 'mixing_matrix.*static_args'):
      train(tx, 2)

  @parameterized.named_parameters(
    *(row for row in ALL if row[0] != 'gradient_tracking'))
  def test_params_must_be_given(self, make):
    tx = make(RATE)
    with self.assertRaisesRegex(ValueError, 'params=None'):
      jax.eval_shape(jax.vmap(
        lambda x: tx.update(x, tx.init(x))[0], axis_name='workers'),
                     jnp.ones((N, 2)))

  def test_the_axis_has_at_most_two_names(self):
    axis = 'a', 'b', 'c'
    for name, make in (*EXACT, *BIASED):
      if name != 'diloco':
        with self.assertRaisesRegex(ValueError, 'axis_name'):
          make(RATE, axis)


if __name__ == '__main__':
  absltest.main()
