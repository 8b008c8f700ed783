"""State of workers for other numbers of workers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

import gradiv
from tests import helpers

RNG = np.random.default_rng(0)


class ResizeWorkersTest(parameterized.TestCase):

  @parameterized.product(old=(1, 4, 6), new=(1, 4, 3))
  def test_the_mean_stays(self, old, new):
    state = {'w': jnp.float32(RNG.normal(size=(old, 3, 2))),
             'b': jnp.float32(RNG.normal(size=old))}
    resized = gradiv.resize_workers(state, new)
    self.assertEqual([x.shape[0] for x in jax.tree.leaves(resized)], [new] * 2)
    mean = lambda tree: jax.tree.map(lambda x: x.mean(0), tree)
    helpers.assert_close(mean(resized), mean(state), 1e-5, 1e-6)

  def test_three_workers_become_two(self):
    """Each of the two gets one and a half of the three."""
    resized = gradiv.resize_workers(jnp.array([0., 3., 6.]), 2)
    np.testing.assert_allclose(resized, [1., 5.], 1e-6)

  @parameterized.parameters(2, 4, 8)
  def test_integers_and_keys_are_picked(self, new):
    state = {'count': jnp.arange(4), 'key': jax.random.split(
      jax.random.key(0), 4), 'half': jnp.arange(4, dtype=jnp.bfloat16)}
    resized = gradiv.resize_workers(state, new)
    rows = np.arange(new) * 4 // new
    np.testing.assert_array_equal(resized['count'], rows)
    helpers.assert_same(resized['key'], state['key'][rows])
    self.assertEqual(resized['half'].dtype, jnp.bfloat16)

  def test_nothing_changes_for_as_many(self):
    state = (jnp.float32(RNG.normal(size=(4, 2))), jnp.arange(4))
    helpers.assert_same(gradiv.resize_workers(state, 4), state)

  def test_common_state_is_left_alone(self):
    state = {'own': jnp.ones((4, 2)), 'common': jnp.ones((4, 2)), 'n': 3}
    resized = gradiv.resize_workers(
      state, 2, in_axes={'own': 0, 'common': None, 'n': None})
    self.assertEqual(resized['own'].shape, (2, 2))
    self.assertIs(resized['common'], state['common'])
    self.assertEqual(resized['n'], 3)

  @pytest.mark.slow
  def test_delayed_gradients_still_arrive(self):
    """The mean over the workers of what is on its way does not change."""
    delay = gradiv.delay_updates(2)
    params = jnp.zeros(3)

    def steps(state, grads):
      sent = []
      for g in grads:
        updates, state = jax.vmap(delay.update, (0, 0, None))(g, state, params)
        sent.append(updates.mean(0))
      return sent, state

    grads = jnp.float32(RNG.normal(size=(2, 4, 3)))
    state = gradiv.replicate(delay.init(params), 4)
    _, state = steps(state, grads)
    resized = gradiv.resize_workers(state, 2)
    arrived, _ = steps(resized, jnp.zeros((2, 2, 3)))
    helpers.assert_close(arrived, list(grads.mean(1)), 1e-5, 1e-6)

  @parameterized.parameters(
    (dict(num_workers=0), 'num_workers=0'),
    (dict(in_axes=1), 'in_axes=1'),
    (dict(state={'w': jnp.zeros(())}), r"state\['w'\] has shape \(\)"),
    (dict(state={'w': jnp.zeros((0, 2))}), r"state\['w'\] has shape \(0, 2\)"))
  def test_bad_arguments(self, arguments, message):
    with self.assertRaisesRegex(ValueError, message):
      gradiv.resize_workers(
        **dict(state={'w': jnp.zeros((2, 2))}, num_workers=2) | arguments)


if __name__ == '__main__':
  absltest.main()
