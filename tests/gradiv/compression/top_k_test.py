"""The largest coordinates are kept, the others set to zero."""

import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

import gradiv

RNG = np.random.default_rng(15)


def kept(fraction, v):
  return gradiv.keep_top_k(fraction).update(v, optax.EmptyState())[0]


class TopKTest(parameterized.TestCase):

  def test_keeps_the_largest_magnitudes(self):
    v = jnp.float32(RNG.normal(size=(5, 8)))
    found = kept(0.1, v)
    cut = np.sort(np.abs(v).ravel())[-4]
    np.testing.assert_array_equal(found, np.where(np.abs(v) >= cut, v, 0))
    self.assertLess(np.sum((v - found)**2) / np.sum(v**2), 1 - 4 / 40)

  @parameterized.parameters(
    (0.25, 8, 2),  # ties are cut as well
    (1., 8, 8),
    (1e-6, 8, 1),  # at least one
    (0.07, 100, 7),  # although 0.07 · 100 is a little more than 7
  )
  def test_number_of_coordinates(self, fraction, size, count):
    self.assertEqual(kept(fraction, jnp.ones(size)).sum(), count)

  @parameterized.parameters(0., 1.1, float('nan'), '0.5')
  def test_invalid_fraction(self, fraction):
    with self.assertRaisesRegex(ValueError, 'fraction'):
      gradiv.keep_top_k(fraction)


if __name__ == '__main__':
  absltest.main()
