"""The arms of the third paper: network, noise, rates and graphs."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import gradiv
from experiments import models
from experiments.decentralized import arms as decentralized_arms, optimizers
from gradiv.decentralized import topology
from tests import helpers
from tests.experiments.decentralized.small import SMALL, find


class ArmsTest(parameterized.TestCase):

  def test_the_network_of_the_paper_has_no_biases(self):
    model = models.build('mlp', input_shape=(8, 8, 1), num_classes=10,
                         hidden=(50, 50), use_bias=False)
    params = jax.eval_shape(model.init, jax.random.key(0))
    self.assertEqual(sum(x.size for x in jax.tree.leaves(params)),
                     64 * 50 + 50 * 50 + 50 * 10)
    with self.assertRaisesRegex(ValueError, 'use_bias is 0; .* true or false'):
      models.build('mlp', input_shape=(8, 8, 1), num_classes=10, use_bias=0)

  def test_noise_of_each_worker_is_its_own_and_as_wide_as_asked(self):
    config = dataclasses.replace(SMALL, noise_stddev=0.3)
    params = {'a': jnp.zeros((50, 20)), 'b': jnp.ones(100)}
    drawn = jax.vmap(lambda key: optimizers.place(
      config, find(config, 'ssgd_noise'), params, key))(
        jax.random.split(jax.random.key(0), 4))
    flat = np.concatenate([np.asarray(drawn['a']).reshape(4, -1),
                           np.asarray(drawn['b']) - 1], 1)
    helpers.assert_mean(flat.ravel(), 0.)
    helpers.assert_mean(flat.ravel()**2, 0.09)
    self.assertLess(np.abs(np.corrcoef(flat) - np.eye(4)).max(),
                    4 / np.sqrt(1100))

  @parameterized.parameters('ssgd', 'imposed', 'dpsgd_complete', 'lamb')
  def test_rates_warm_up_are_cut_and_are_imposed(self, name):
    """On equal parameters every arm but LAMB takes the mean gradient."""
    config = dataclasses.replace(
      SMALL, warmup_steps=2, num_workers=2, rate_cuts=(0.75,))
    lane = {'rate': 0.5, 'ratio': jnp.array([1., .5, .25, .25])}
    tx = optimizers.make_optimizer(
      config, find(config, name), lane, 'workers')

    def run(gradient):
      def step(state, t):
        updates, state = tx.update(gradient, state, jnp.ones(2), step=t)
        return state, updates
      return jax.lax.scan(step, tx.init(jnp.ones(2)), jnp.arange(4))[1]

    moves = gradiv.map_workers(run, 'workers')(
      jnp.array([[1., 0.], [3., 0.]])).mean(0)
    rates = np.array([0.25, 0.5, 0.5, 0.05])
    rates *= np.array([1., .5, .25, .25]) if name == 'imposed' else 1
    if name == 'lamb':  # the first step of Adam is a sign
      np.testing.assert_allclose(moves[0], -0.25 * np.array(
        [2**0.5, 0]), 1e-3)
    else:
      np.testing.assert_allclose(
        moves, -2 * rates[:, None] * np.array([[1., 0.]]), 1e-6)

  def test_the_contraction_of_random_pairs_and_rings(self):
    for make, wanted in ((topology.random_matching, (6 - 2) / (2 * 5)),
                         (topology.random_ring, (6 - 3) / (3 * 5))):
      self.assertAlmostEqual(
        optimizers.contraction(make(6, 4000)), wanted, delta=0.05)

  def test_graphs_of_the_figures(self):
    """Fig. 2: all with all. Fig. 5: with five of six, their own included."""
    arms = {arm.name: arm for arm in decentralized_arms.list_arms(SMALL)}
    self.assertEqual(arms['dpsgd_complete'].topology, 'complete')
    np.testing.assert_allclose(
      optimizers.mixing_matrices(SMALL, 'complete', 3), 1 / 3)
    six = arms['dpsgd_two_neighbors']
    w = optimizers.mixing_matrices(SMALL, six.topology, 6)
    np.testing.assert_array_equal((w > 0).sum(0), [5] * 6)
    self.assertEqual(w[0, 3], 0)
    self.assertEqual((six.num_workers, six.batch_size), (6, 24))


if __name__ == '__main__':
  absltest.main()
