"""The mean through two thin matrices: exact where it can be."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import Mesh, PartitionSpec as P

import gradiv
from gradiv import compression
from tests import helpers

RNG = np.random.default_rng(15)
KEY = jax.random.key(8)


class LowRankTest(parameterized.TestCase):

  def run_steps(self, grads, rank, steps=1):
    tx = compression.aggregate_by_low_rank(rank, 'workers', key=KEY)
    state = tx.init(jax.tree.map(lambda g: g[0], grads))
    step = helpers.step_of(tx)
    for _ in range(steps):
      update, state = step(grads, state)
    return update, state

  def test_exact_if_the_mean_has_that_rank(self):
    left, right = RNG.normal(size=(3, 30, 2)), RNG.normal(size=(2, 20))
    grads = {'w': jnp.float32(left @ right).reshape(3, 5, 6, 20),
             'bias': jnp.float32(RNG.normal(size=(3, 20)))}
    update, _ = self.run_steps(grads, 2)
    helpers.assert_close(
      update, jax.tree.map(lambda g: g.mean(0), grads), 1e-4, 1e-5)

  def test_repeated_steps_find_the_best_of_that_rank(self):
    mean = RNG.normal(size=(12, 10)) @ np.diag(2.0 ** -np.arange(10))
    grads = {'w': jnp.float32(np.stack([mean + 1, mean - 1]))}
    u, s, v = np.linalg.svd(mean)
    best = u[:, :2] * s[:2] @ v[:2]
    update, state = self.run_steps(grads, 2, steps=30)
    np.testing.assert_allclose(update['w'], best, atol=1e-3)
    self.assertEqual(state.factors.shape, (10, 2))

  def test_averages_small_leaves_and_recovers_from_zeros(self):
    grads = {'thin': jnp.float32(RNG.normal(size=(2, 30, 2))),
             'w': jnp.zeros((2, 9, 9))}
    update, state = self.run_steps(grads, 2)
    np.testing.assert_allclose(update['thin'], grads['thin'].mean(0), 1e-5)
    np.testing.assert_array_equal(update['w'], 0)
    self.assertEqual(state.factors.shape, (9, 2))  # of 'w' alone
    tx = compression.aggregate_by_low_rank(2, 'workers', key=KEY)
    one = {'thin': grads['thin'], 'w': jnp.ones((2, 9, 9))}
    state = helpers.step_of(tx)(one, state)[1]
    update, _ = helpers.step_of(tx)(one, state)
    np.testing.assert_allclose(update['w'], 1, 1e-4)

  def test_leaves_out_gradients_that_are_not_finite(self):
    grads = {'w': jnp.ones((3, 9, 9)).at[1, 2, 2].set(jnp.nan)}
    update, state = self.run_steps(grads, 1)
    self.assertEqual(state.num_left_out, 1)
    np.testing.assert_allclose(update['w'], 1, 1e-4)

  @parameterized.parameters(
    (dict(rank=0), 'rank'), (dict(key=3), 'key'),
    (dict(layout=gradiv.Layout(groups=gradiv.by_layer)), 'groups'))
  def test_invalid_arguments(self, options, name):
    options = dict(rank=1, axis_name='workers', key=KEY) | options
    with self.assertRaisesRegex(ValueError, name):
      compression.aggregate_by_low_rank(**options)


class StateTest(parameterized.TestCase):

  def test_factors_do_not_count_as_parameters(self):
    tx = compression.aggregate_by_low_rank(2, 'workers', key=KEY)
    for params in ({'w': jnp.ones((9, 8)), 'u': jnp.ones((3, 5, 7))},
                   {'bias': jnp.ones(3)}, {}, {'none': None}):
      state = tx.init(params)
      helpers.assert_same(optax.tree_utils.tree_map_params(
        tx, lambda x: self.fail('no parameter'), state), state)
      for leaf in jax.tree.leaves(state):
        self.assertGreater(leaf.size, 0)  # orbax saves no empty array

  def test_starts_from_shapes(self):
    tx = compression.aggregate_by_low_rank(2, 'workers', key=KEY)
    params = {'w': jnp.ones((9, 8))}
    helpers.assert_same(
      tx.init(jax.eval_shape(lambda: params)), tx.init(params))


class ShardedTest(parameterized.TestCase):
  """Each shard is a matrix of its own; its worker is left out as a whole."""

  @parameterized.product(check_vma=(True, False), bad=(False, True))
  @pytest.mark.slow
  def test_shards_of_workers(self, check_vma, bad):
    """Workers of two shards, with error feedback, as each shard by itself."""
    layout = gradiv.Layout(
      sharded_over='model', is_sharded=lambda path: path[-1].key == 'kernel')
    make = lambda layout: compression.with_error_feedback(
      compression.aggregate_by_low_rank(1, 'data', key=KEY, layout=layout),
      layout=layout)
    kernel = jnp.float32(RNG.normal(size=(2, 4, 9, 8)))  # [shard, worker, ...]
    bias = jnp.float32(RNG.normal(size=(4, 5)))
    if bad:
      kernel = kernel.at[1, 2, 3, 3].set(jnp.nan)
    own = {'kernel': kernel[0, 0], 'bias': bias[0]}
    tx = make(layout)

    def steps(grads):
      state = jax.tree.map(
        lambda x: gradiv.as_private(x, ('data', 'model')), tx.init(own))
      for _ in range(2):
        updates, state = tx.update(
          {'kernel': grads['kernel'][0, 0], 'bias': grads['bias'][0]}, state)
      return updates, state.error['kernel'][None, None]

    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ('data', 'model'))
    updates, error = jax.jit(jax.shard_map(
      steps, mesh=mesh,
      in_specs=({'kernel': P('model', 'data'), 'bias': P('data')},),
      out_specs=({'kernel': P('model'), 'bias': P('model')},
                 P('model', 'data')),
      check_vma=check_vma))({'kernel': kernel, 'bias': bias})
    for shard in range(2):
      expected, wanted = self.alone(
        make(None), kernel[shard], bias, without=2 if bad else None)
      rows = slice(9 * shard, 9 * shard + 9)
      np.testing.assert_allclose(
        updates['kernel'][rows], expected['kernel'], 1e-4, 1e-5)
      np.testing.assert_allclose(
        updates['bias'][5 * shard:5 * shard + 5], expected['bias'], 1e-4, 1e-5)
      np.testing.assert_allclose(error[shard], wanted, 1e-4, 1e-5)

  @staticmethod
  def alone(tx, kernel, bias, without):
    """Take two steps of one shard; a worker is left out, and keeps no error."""
    if without is not None:
      kernel = kernel.at[without].set(jnp.nan)
    state = gradiv.replicate(tx.init({'kernel': kernel[0], 'bias': bias[0]}), 4)
    step = gradiv.map_workers(lambda g, s: tx.update(g, s), 'data')
    for _ in range(2):
      updates, state = step({'kernel': kernel, 'bias': bias}, state)
    return jax.tree.map(lambda x: x[0], updates), state.error['kernel']


if __name__ == '__main__':
  absltest.main()
