"""Masks on gradients, and on weights."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import gradiv
from tests import helpers

RNG = np.random.default_rng(11)
KEY = jax.random.key(3)


class DropUpdatesTest(parameterized.TestCase):

  def test_masks_do_not_hide_what_is_not_finite(self):
    for rescale in (False, True):
      tx = gradiv.drop_updates(0.3, key=KEY, rescale=rescale)
      for bad in (jnp.nan, jnp.inf):
        update, _ = tx.update(jnp.full(50, bad), tx.init(jnp.zeros(50)))
        self.assertFalse(np.isfinite(update).any())

  def test_rate_follows_its_schedule(self):
    tx = gradiv.drop_updates(lambda count: 0.9 / (1 + count), key=KEY)
    ones = jnp.ones(20_000)
    state = tx.init(ones)
    for count in range(3):
      update, state = tx.update(ones, state)
      helpers.assert_mean(update, 1 - 0.9 / (1 + count))

  @parameterized.parameters(1., -0.1, float('nan'))
  def test_invalid_rate(self, rate):
    with self.assertRaisesRegex(ValueError, 'rate'):
      gradiv.drop_updates(rate, key=KEY)
    with self.assertRaisesRegex(ValueError, 'rate'):
      gradiv.drop_connect(KEY, jnp.ones(2), rate)


class DropConnectTest(parameterized.TestCase):

  def test_mean_of_the_weights_and_bias_of_the_gradient(self):
    """In linear regression it adds the ridge p/(1 − p) x² w."""
    x, w, y, p = (RNG.normal(size=4), RNG.normal(size=4), 0.7, 0.4)
    x, w = jnp.float32(x), jnp.float32(w)
    loss = lambda w, key: (
      x @ gradiv.drop_connect(key, w, p) - y)**2 / 2
    keys = jax.random.split(KEY, 20_000)
    helpers.assert_mean(jax.vmap(
      lambda key: gradiv.drop_connect(key, w, p))(keys), w)
    grads = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(w, keys)
    helpers.assert_mean(grads, (x @ w - y) * x + p / (1 - p) * x * x * w)

  def test_mask_chooses_leaves(self):
    params = {'kernel': jnp.ones(100), 'bias': jnp.ones(100)}
    dropped = gradiv.drop_connect(
      KEY, params, 0.5, mask=lambda path: path[-1].key == 'kernel')
    np.testing.assert_array_equal(dropped['bias'], 1)
    self.assertBetween(int((dropped['kernel'] == 0).sum()), 25, 75)

if __name__ == '__main__':
  absltest.main()
