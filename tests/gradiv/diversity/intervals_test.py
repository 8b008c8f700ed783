"""Fieller's interval and Student's quantile, against searches and tables."""

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import gradiv
from gradiv.diversity import intervals


def means(g, s, noise=0., n=40):
  """Return the `Means` of n pairs with some spread, and as float32 arrays."""
  rng = np.random.default_rng(round(1e3 * (g + s + noise)))
  x = rng.normal(g, noise, n)
  y = x + rng.normal(s, noise, n)
  (gg, gm), (_, mm) = np.cov(x, y) / n
  return intervals.Means(*map(jnp.float32, (x.mean(), y.mean())),
                         tuple(map(jnp.float32, (gg, gm, mm))))


def accepted(found, t, grid):
  """Return where p M − G is at most, and at least, t deviations from zero."""
  g, m, (gg, gm, mm) = (np.float64(x) if np.ndim(x) == 0 else
                        [np.float64(y) for y in x] for x in found)
  gap = grid * m - g
  spread = t * np.sqrt(np.maximum(grid**2 * mm - 2 * grid * gm + gg, 0))
  return gap <= spread, gap >= -spread


class FiellerTest(parameterized.TestCase):

  def test_ends_invert_one_sided_tests(self):
    """The largest and smallest p that are not rejected, by search."""
    grid = np.linspace(0, 1, 100_001)
    kinds = set()
    for noise in (.3, 1, 3, 10, 30):
      for shift in range(20):
        found = means(1 + shift / 7, 3, noise)
        below, above = accepted(found, 2., grid)
        high, low = grid[below].max(initial=0), grid[above].min(initial=1)
        if found.signal > 0:
          np.testing.assert_allclose(
            intervals.most(found, 2.), high, atol=2e-5)
        if below[-1] or not above[0]:
          kinds.add('one end')
        if not below[-1] and not above[0]:
          kinds.add('both ends')
          np.testing.assert_allclose(
            intervals.least(found, 2.), low, atol=2e-5)
    self.assertLen(kinds, 2)

  def test_a_signal_below_zero_counts_as_zero(self):
    found = intervals.Means(
      jnp.float32(-3), jnp.float32(10), tuple(jnp.float32([1., 0., 1.])))
    # Two deviations of G over M, where Fieller has (−3 + 2)/10 and less.
    np.testing.assert_allclose(intervals.most(found, 2.), .2, 1e-5)
    self.assertEqual(float(intervals.least(found, 2.)), 0)

  def test_no_spread_is_certainty(self):
    found = intervals.Means(
      jnp.float32(1), jnp.float32(4), (jnp.float32(0),) * 3)
    for end in (intervals.least, intervals.most):
      np.testing.assert_allclose(end(found, 3.), .25, 1e-6)
    p, deviation = intervals.fraction(found)
    self.assertEqual((float(p), float(deviation)), (.25, 0))

  def test_deviation_of_the_fraction(self):
    rng = np.random.default_rng(0)
    x = rng.normal(2, .3, (4000, 30))
    y = x + rng.normal(6, .2, x.shape)
    ratio = x.mean(1) / y.mean(1)
    covariance = tuple(jnp.float32(c / 30) for c in (.09, .09, .13))
    _, deviation = intervals.fraction(
      intervals.Means(jnp.float32(2), jnp.float32(8), covariance))
    np.testing.assert_allclose(deviation, ratio.std(), rtol=.05)


class IntervalTest(absltest.TestCase):

  def test_of_a_metric_is_in_order(self):
    interval = intervals.Interval(
      gradiv.Estimate(jnp.float32(.5), jnp.float32(.5)),
      gradiv.Estimate(jnp.float32(0), jnp.float32(1)), jnp.array(False))
    self.assertEqual(interval.of(gradiv.batch_size_bound), (2, np.inf))
    self.assertEqual(interval.of(gradiv.inverse_batch_size_bound), (0, .5))


class StudentTest(parameterized.TestCase):

  @parameterized.parameters((3, 3.182), (5, 2.571), (10, 2.228), (60, 2.000))
  def test_against_the_table(self, freedom, quantile):
    self.assertAlmostEqual(
      float(intervals.student(jnp.float32(freedom), 0.975)), quantile,
      delta=0.03)


if __name__ == '__main__':
  absltest.main()
