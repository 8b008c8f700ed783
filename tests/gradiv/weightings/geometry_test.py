"""Distances, lengths and cosines, against those of the gradients."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from gradiv.weightings import geometry
from tests.gradiv.weightings import inputs
from tests.gradiv.weightings.inputs import EPS

cosines = jax.jit(geometry.cosines)


class GeometryTest(parameterized.TestCase):

  @parameterized.parameters(*inputs.KINDS)
  def test_sq_distances(self, kind):
    x = inputs.hard(kind, 16)
    norms = np.linalg.norm(x, axis=1)
    got = np.asarray(jax.jit(geometry.sq_distances)(inputs.gram_of(x)))
    error = 4 * EPS * (norms[:, None] ** 2 + norms[None, :] ** 2)
    self.assertTrue(
      (np.abs(got - inputs.distances(x) ** 2) <= error).all())
    self.assertGreaterEqual(got.min(), 0)  # Duplicates would round below.
    self.assertFalse(np.diagonal(got).any())

  def test_cosines_with_lengths_apart_and_zeros(self):
    rows = np.random.default_rng(4).normal(size=(4, 6))
    rows *= np.array([[1e-6], [0], [1], [1e6]])
    norms, cos, alive = cosines(jnp.float32(rows @ rows.T))
    self.assertEqual(alive.tolist(), [True, False, True, True])
    lengths = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(norms, np.where(lengths, lengths, 1), 1e-6)
    kept = rows[[0, 2, 3]] / lengths[[0, 2, 3], None]
    expected = np.eye(4)
    expected[np.ix_([0, 2, 3], [0, 2, 3])] = kept @ kept.T
    np.testing.assert_allclose(cos, expected, atol=1e-6)

  def test_cosines_of_zero_gradients_alone(self):
    norms, cos, alive = cosines(jnp.zeros((4, 4)))
    self.assertEqual(alive.tolist(), [False] * 4)
    np.testing.assert_array_equal(cos, np.eye(4))
    np.testing.assert_array_equal(norms, [1] * 4)

  def test_products_are_those_of_float32(self):
    rng = np.random.default_rng(4)
    a, b = (np.float32(rng.normal(size=64)) for _ in range(2))
    np.testing.assert_allclose(geometry.dot(a, b), a @ b, atol=1e-5)


if __name__ == '__main__':
  absltest.main()
