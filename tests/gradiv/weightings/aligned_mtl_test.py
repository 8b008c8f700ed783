"""Aligned-MTL, against its definition by a singular value decomposition."""

import numpy as np
from absl.testing import absltest, parameterized

from gradiv import weightings
from tests.gradiv.weightings import inputs, rules


def aligned_mtl(rows, scale):
  left, sigma, right = np.linalg.svd(rows, full_matrices=False)
  kept = sigma > 1e-5 * sigma[0]
  left, sigma, right = left[:, kept], sigma[kept], right[kept]
  square = {'min': sigma[-1]**2, 'rmse': np.mean(sigma**2),
            'median': np.sort(sigma**2)[(len(sigma) - 1) // 2]}[scale]
  return np.sqrt(square) * (left @ right).mean(0)


class AlignedMTLTest(parameterized.TestCase):

  @parameterized.product(n=inputs.SIZES, scale=('min', 'median', 'rmse'))
  def test_definition(self, n, scale):
    name = ('' if scale == 'min' else f'{scale} ') + 'aligned_mtl'
    for kind in inputs.LOSS_KINDS:
      with self.subTest(kind):
        rows = inputs.losses(kind, n)
        sigma = np.linalg.svd(rows, compute_uv=False)
        condition = (sigma[0] / sigma[sigma > 1e-5 * sigma[0]][-1])**2
        expected = aligned_mtl(rows, scale)
        self.assertLess(
          np.linalg.norm(rules.update(name, rows) - expected),
          (1e-5 + 2e-7 * condition) * np.linalg.norm(expected))

  @parameterized.product(n=(2, 5), kind=inputs.SOLVABLE)
  def test_aligned_gradients_are_orthogonal_and_equally_long(self, n, kind):
    rows = inputs.losses(kind, n)
    sigma = np.linalg.svd(rows, compute_uv=False)
    # Each as long as the least singular value; the update is their mean.
    self.assertAlmostEqual(
      np.linalg.norm(rules.update('aligned_mtl', rows))
      / (sigma[-1] / np.sqrt(n)), 1, 3)

  def test_zero_gradients_give_the_mean(self):
    np.testing.assert_allclose(
      rules.weigh('aligned_mtl', np.zeros((2, 2))), [.5, .5])

  def test_the_scale_mode_is_one_of_three(self):
    with self.assertRaisesRegex(ValueError, 'scale_mode'):
      weightings.aligned_mtl('max')


if __name__ == '__main__':
  absltest.main()
