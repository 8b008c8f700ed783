"""MGDA, against SciPy's shortest vector in the convex hull."""

import numpy as np
import scipy.optimize
from absl.testing import absltest, parameterized

from tests.gradiv.weightings import inputs, rules


def mgda(rows):
  """Solve the least distance problem of Lawson and Hanson."""
  rows = rows / np.abs(rows).max()
  matrix = np.vstack([rows.T, np.ones(len(rows))])
  u = scipy.optimize.nnls(
    matrix, np.append(np.zeros(rows.shape[1]), 1), maxiter=1000)[0]
  return u / u.sum()


class MGDATest(parameterized.TestCase):

  @parameterized.parameters(*inputs.SIZES)
  def test_definition(self, n):
    for kind in inputs.LOSS_KINDS:
      with self.subTest(kind):
        rows = inputs.losses(kind, n)
        w = rules.weigh('mgda', rows @ rows.T).astype(float)
        best = mgda(rows) @ rows
        self.assertGreaterEqual(w.min(), 0)
        self.assertAlmostEqual(w.sum(), 1, places=5)
        self.assertLess(
          np.linalg.norm(w @ rows - best), 5e-5 * np.linalg.norm(best))

  @parameterized.parameters(2, 5)
  def test_each_gains_at_least_the_square_of_the_length(self, n):
    for kind in inputs.LOSS_KINDS:
      with self.subTest(kind):
        rows = inputs.losses(kind, n)
        weights = rules.weigh('mgda', rows @ rows.T).astype(float)
        d = weights @ rows
        rounding = 1e-4 * np.abs(rows @ rows.T) @ weights
        self.assertTrue((rows @ d >= d @ d - rounding).all())
        used = weights > 1e-3
        np.testing.assert_array_less(
          (rows @ d - d @ d)[used] - rounding[used], 0)

  def test_zero_gradients_share_the_weight(self):
    rows = inputs.losses('random', 5) * [[1], [0], [1], [0], [1]]
    np.testing.assert_allclose(
      rules.weigh('mgda', rows @ rows.T), [0, .5, 0, .5, 0])


if __name__ == '__main__':
  absltest.main()
