"""Scans over layers: products are finished within the step of their layer."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax import lax

import gradiv

LAYERS, WIDTH = 6, 32


def loss_fn(params, x):
  """Apply rematerialized layers [LAYERS, WIDTH, WIDTH] to x [t, WIDTH]."""
  def layer(h, p):
    return jnp.tanh(jnp.sin(h @ p['in']) @ p['out'] + p['bias'][None]), None

  return jnp.sum(jnp.square(lax.scan(jax.checkpoint(layer), x, params)[0]))


def draw(*leading, t=8):
  rng = np.random.default_rng(0)
  normal = lambda *shape: np.float32(0.3 * rng.normal(size=shape))
  params = {'in': normal(*leading, LAYERS, WIDTH, WIDTH),
            'out': normal(*leading, LAYERS, WIDTH, WIDTH),
            'bias': normal(*leading, LAYERS, WIDTH)}
  return params, normal(*leading, 5, t, WIDTH)


class LoopsTest(parameterized.TestCase):

  def test_takes_the_memory_of_rematerialized_layers(self):
    params, batch = draw(t=128)
    mean = lambda p, b: jnp.mean(jax.vmap(loss_fn, (None, 0))(p, b))
    memory = lambda fn: jax.jit(fn).lower(
      params, batch).compile().memory_analysis().temp_size_in_bytes
    plain = memory(jax.value_and_grad(mean))
    self.assertLess(memory(gradiv.example_moments(loss_fn)), 1.5 * plain)
    # The factors of all layers, which norms need, are far larger.
    self.assertGreater(memory(gradiv.example_sq_norms(loss_fn)), 1.5 * plain)

  @parameterized.parameters(3, 40)
  def test_equals_products_finished_outside_the_loop(self, t):
    """By the Gram matrix of the positions (3), or the product itself (40)."""
    params, batch = draw(t=t)

    @jax.jit
    def both(params, batch):
      inside = gradiv.example_moments(loss_fn)(params, batch)
      # With a mask, the loop returns its factors.
      outside = gradiv.example_moments(loss_fn)(
        params, batch, mask=jnp.ones(len(batch), bool))
      return inside, outside, gradiv.example_sq_norms(loss_fn)(params, batch)[1]

    inside, outside, squares = both(params, batch)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(
      a, b, 2e-5, 2e-6 * np.abs(b).max()), inside, outside)
    moments = inside[2]
    np.testing.assert_allclose(
      moments.sq_norm_of_mean + moments.mean_sq_deviation, squares.mean(), 1e-5)

  def test_equals_separate_calls_under_vmap(self):
    params, batch = draw(2)
    step = gradiv.example_moments(loss_fn)
    lanes = jax.jit(jax.vmap(step))(params, batch)
    alone = jax.jit(step)
    for i in range(2):
      own = jax.tree.map(lambda x: x[i], (params, batch))
      jax.tree.map(lambda a, b: np.testing.assert_allclose(
        a[i], b, 2e-5, 2e-6 * np.abs(b).max()), lanes, alone(*own))


if __name__ == '__main__':
  absltest.main()
