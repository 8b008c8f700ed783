"""IMTL-G, against its definition by a pseudoinverse of the gradients."""

import numpy as np
from absl.testing import absltest, parameterized

from tests.gradiv.weightings import inputs, rules


def equal_projections(rows):
  units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
  return np.linalg.pinv(units, rcond=1e-3) @ np.ones(len(rows))


def imtl_g(rows):
  """Return the d of equal projections that combines rows by a sum of one."""
  d = equal_projections(rows)
  # Of all combinations, the shortest in units of the lengths.
  norms = np.linalg.norm(rows, axis=1)
  units = rows / norms[:, None]
  w = np.linalg.pinv(units.T, rcond=1e-3) @ d / norms
  return d / w.sum()


class IMTLGTest(parameterized.TestCase):

  @parameterized.parameters(*inputs.SIZES)
  def test_definition(self, n):
    for kind in inputs.LOSS_KINDS:
      with self.subTest(kind):
        rows = inputs.losses(kind, n)
        expected = imtl_g(rows)
        self.assertLess(
          np.linalg.norm(rules.update('imtl_g', rows) - expected),
          1e-4 * np.linalg.norm(expected))

  @parameterized.product(n=(2, 5), kind=inputs.SOLVABLE)
  def test_cosines_are_equal_and_weights_sum_to_one(self, n, kind):
    rows = inputs.losses(kind, n)
    weights = rules.weigh('imtl_g', rows @ rows.T)
    self.assertAlmostEqual(float(weights.sum()), 1, 4)
    gains = rows @ (weights @ rows) / np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(gains, gains[0], 2e-3)

  def test_two_opposite_gradients_have_no_direction(self):
    self.assertFalse(
      rules.weigh('imtl_g', np.float32([[1, -1], [-1, 1]])).any())


if __name__ == '__main__':
  absltest.main()
