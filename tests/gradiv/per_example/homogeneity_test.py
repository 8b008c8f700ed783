"""Gradients in proportion to what the backward pass starts from."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import gradiv
from gradiv.per_example._engine import homogeneity
from tests.gradiv.per_example import reference


def layer_of(backward):
  """Make a layer ``x * w`` with a backward pass of its own."""
  layer = jax.custom_vjp(lambda w, x: w * x)
  layer.defvjp(lambda w, x: (w * x, (w, x)),
               lambda held, d: (backward(held[0], d * held[1]), d * held[0]))
  return layer


def in_proportion(loss_fn, w, x):
  """Look at the gradient of one example, as the engine does."""
  def run(w, x, seed):
    loss, pull_back = jax.vjp(lambda w: loss_fn(w, x), w)
    return loss, *pull_back(jnp.ones_like(loss) * seed)

  return homogeneity.holds(
    jax.make_jaxpr(run)(w, x, jnp.float32(1)), 1, 2)


BACKWARD = {
  'linear': lambda w, d: 2 * d, 'clipped': lambda w, d: jnp.clip(d, -.1, .1),
  'decayed': lambda w, d: d + .1 * w, 'normed': lambda w, d: d / (
    1e-3 + jnp.linalg.norm(d)), 'constant': lambda w, d: jnp.ones_like(w),
  'squared': lambda w, d: d * d, 'zero': lambda w, d: jnp.zeros_like(w),
  'chosen': lambda w, d: jnp.where(d > 0, d, 2 * d),
  'quantized': lambda w, d: (8 * d).astype(jnp.int8).astype(d.dtype) / 8,
  'rounded': lambda w, d: jax.lax.reduce_precision(d, 4, 2)}


def scanned(w, x):
  body = lambda h, _: (jnp.tanh(h * w + x), None)
  return jnp.sum(jax.lax.scan(jax.checkpoint(body), x, length=3)[0])


def branched(w, x):
  return jnp.sum(jax.lax.cond(x[0] > 0, jnp.sin, lambda x: 2 * x, w * x))


class HomogeneityTest(parameterized.TestCase):

  @parameterized.parameters(*BACKWARD)
  def test_rules_of_the_user(self, name):
    layer = layer_of(BACKWARD[name])
    loss_fn = lambda w, x: jnp.sum(jnp.sin(layer(w, x)))
    rng = np.random.default_rng(0)
    w, x = (np.float32(rng.normal(size=shape)) for shape in ((3,), (5, 3)))
    self.assertEqual(
      in_proportion(loss_fn, w, x[0]), name in ('linear', 'zero'))
    grads = jax.vmap(jax.grad(loss_fn), (None, 0))(w, x)
    _, mean, moments = gradiv.example_moments(loss_fn)(w, x)
    np.testing.assert_allclose(mean, grads.mean(0), rtol=1e-5, atol=1e-7)
    reference.Truth(jnp.zeros(5), [grads]).check_moments(moments)

  @parameterized.parameters(scanned, branched, lambda w, x: jnp.max(w * x))
  def test_loops_branches_and_choices(self, loss_fn):
    self.assertTrue(in_proportion(loss_fn, jnp.ones(3), jnp.ones(3)))


if __name__ == '__main__':
  absltest.main()
