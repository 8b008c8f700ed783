"""Signs are kept, with the mean magnitude of each leaf."""

import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest

import gradiv

RNG = np.random.default_rng(15)


class SignsTest(absltest.TestCase):

  def test_the_error_is_that_of_the_formula(self):
    v = jnp.float32(RNG.normal(size=40))
    signs, _ = gradiv.keep_signs().update(v, optax.EmptyState())
    np.testing.assert_array_equal(jnp.sign(signs), jnp.sign(v))
    np.testing.assert_allclose(
      np.sum((v - signs)**2),
      np.sum(v**2) - np.abs(v).sum()**2 / 40, 1e-5)


if __name__ == '__main__':
  absltest.main()
