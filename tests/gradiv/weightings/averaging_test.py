"""The mean and norm clipping, against their definitions."""

import numpy as np
from absl.testing import absltest, parameterized

from gradiv.weightings import averaging
from tests.gradiv.weightings import inputs, rules
from tests.gradiv.weightings.inputs import EPS


class AveragingTest(parameterized.TestCase):

  @parameterized.parameters(*inputs.SIZES)
  def test_definitions(self, n):
    for kind in inputs.KINDS:
      x = inputs.hard(kind, n)
      norms = np.linalg.norm(x, axis=1)
      for present in inputs.absences(n):
        mean = present / max(present.sum(), 1)
        np.testing.assert_allclose(
          rules.weigh('mean', x @ x.T, present), mean, EPS)
        np.testing.assert_allclose(
          rules.weigh('norm_clipping', x @ x.T, present),
          mean * np.minimum(1, 2.5 / np.maximum(norms, 1e-9)), 4 * EPS)

  @parameterized.parameters(0., -1., float('inf'))
  def test_max_norm_is_positive_and_finite(self, max_norm):
    with self.assertRaisesRegex(ValueError, 'max_norm'):
      averaging.norm_clipping(max_norm)


if __name__ == '__main__':
  absltest.main()
