"""Intervals against closed forms, and how often they hold the truth."""

import math

import numpy as np
import scipy.stats
from absl.testing import absltest, parameterized

from experiments.common import intervals


class MeanTest(parameterized.TestCase):

  def test_against_student(self):
    # 4.302653 is the quantile at 97.5 % of two degrees of freedom.
    value, low, high = intervals.of_mean([1., 2., 6.])
    half = 4.302653 * math.sqrt(7 / 3)
    np.testing.assert_allclose((value, low, high), (3, 3 - half, 3 + half),
                               1e-6)

  def test_in_logarithms(self):
    found = intervals.of_mean([1., 100.], log=True)
    plain = intervals.of_mean([0., math.log(100)])
    np.testing.assert_allclose(found, np.exp(plain))
    self.assertAlmostEqual(found.value, 10)

  @parameterized.parameters(([1.],), ([],), ([1., math.nan],),
                            ([1., math.inf],))
  def test_unknown(self, runs):
    self.assertFalse(intervals.of_mean(runs).is_known)

  def test_no_logarithm_of_zero(self):
    self.assertFalse(intervals.of_mean([0., 1.], log=True).is_known)

  def test_covers_the_truth_in_95_percent(self):
    rng = np.random.default_rng(0)
    hits = sum(low <= 0 <= high for _, low, high in (
      intervals.of_mean(x) for x in rng.normal(size=(2000, 4))))
    # Five standard errors.
    self.assertLess(abs(hits / 2000 - 0.95), 5 * math.sqrt(.95 * .05 / 2000))


class ShareTest(parameterized.TestCase):

  @parameterized.parameters((0, 5), (5, 5), (3, 7), (9, 12))
  def test_against_wilsons_formula(self, count, total):
    z, p = scipy.stats.norm.ppf(0.975), count / total
    middle = (p + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(
      p * (1 - p) / total + z**2 / (4 * total**2))
    np.testing.assert_allclose(
      intervals.of_share(count, total), (p, middle - half, middle + half),
      1e-9, 1e-9)


class ResampledTest(absltest.TestCase):

  def test_of_the_mean_is_close_to_student(self):
    x = np.random.default_rng(0).normal(size=50)
    found = intervals.resampled(np.mean, x)
    self.assertEqual(found.value, x.mean())
    np.testing.assert_allclose(found, intervals.of_mean(x), atol=0.1)
    self.assertEqual(intervals.resampled(np.mean, x), found)

  def test_samples_are_resampled_together(self):
    x = np.random.default_rng(0).normal(size=20)
    found = intervals.resampled(lambda a, b: (a - b).mean(), x, x - 2.)
    np.testing.assert_allclose(found, (2, 2, 2))

  def test_what_is_undefined_is_left_out(self):
    x = np.arange(1., 9.)
    found = intervals.resampled(
      lambda a: a.mean() if 8 in a else math.nan, x)
    self.assertTrue(found.is_known)
    self.assertFalse(intervals.resampled(lambda a: math.nan, x).is_known)
    self.assertFalse(intervals.resampled(np.mean, x[:1]).is_known)


if __name__ == '__main__':
  absltest.main()
