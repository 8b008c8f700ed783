"""ConFIG, against its definition by a pseudoinverse of the gradients."""

import numpy as np
from absl.testing import absltest, parameterized

from tests.gradiv.weightings import inputs, rules
from tests.gradiv.weightings.imtl_g_test import equal_projections


def conflict_free(rows):
  d = equal_projections(rows)
  unit = d / np.linalg.norm(d)
  return np.sum(rows @ unit) * unit


class ConflictFreeTest(parameterized.TestCase):

  @parameterized.parameters(*inputs.SIZES)
  def test_definition(self, n):
    for kind in inputs.LOSS_KINDS:
      with self.subTest(kind):
        rows = inputs.losses(kind, n)
        expected = conflict_free(rows)
        self.assertLess(
          np.linalg.norm(rules.update('conflict_free', rows) - expected),
          3e-4 * np.linalg.norm(expected))

  @parameterized.product(n=(2, 5), kind=inputs.SOLVABLE)
  def test_cosines_are_equal_and_the_length_is_their_sum(self, n, kind):
    rows = inputs.losses(kind, n)
    d = rules.update('conflict_free', rows)
    cosines = rows @ d / np.linalg.norm(rows, axis=1) / np.linalg.norm(d)
    np.testing.assert_allclose(cosines, cosines[0], 2e-3)
    self.assertAlmostEqual(
      np.linalg.norm(d) / (rows @ d / np.linalg.norm(d)).sum(), 1, 3)

  def test_two_opposite_gradients_have_no_direction(self):
    self.assertFalse(
      rules.weigh('conflict_free', np.float32([[1, -1], [-1, 1]])).any())


if __name__ == '__main__':
  absltest.main()
