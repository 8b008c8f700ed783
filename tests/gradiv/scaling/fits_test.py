"""(M, σ²) where it is known: P2-1 to P2-3 and P2-15 of critical parameters.

That `gradiv.estimate` is unbiased, `estimate_test` has.
"""

import itertools

import numpy as np
from absl.testing import absltest, parameterized

import gradiv
from gradiv import scaling
from tests import helpers

RNG = np.random.default_rng(0)


def exact(grads):
  """The estimate of a whole set [..., n, d] of gradients, in float64."""
  mean = grads.mean(-2, keepdims=True)
  return gradiv.Estimate(np.sum(mean**2, (-1, -2)),
                         np.mean(np.sum((grads - mean)**2, -1), -1))


def least_squares(x, covariance, stddev, n, rng=RNG):
  """n gradients a (aᵀx − e) at each x: a ~ N(0, S), e ~ N(0, stddev²)."""
  a = rng.normal(size=(len(x), n, len(covariance))) @ np.linalg.cholesky(
    covariance).T
  residual = np.einsum('knd,kd->kn', a, x)
  return a * (residual + stddev * rng.normal(size=residual.shape))[..., None]


class EstimateTest(absltest.TestCase):

  def test_p2_1_two_batch_sizes_tell_as_much(self):
    """From ‖ḡ‖² of the whole and the mean one of its parts, n of b each."""
    n, b = 8, 4
    g = RNG.normal(0.3, 1, size=(n, 6))
    small, large = np.mean(np.sum(g**2, 1)), np.sum(g.mean(0)**2)
    e = gradiv.estimate(helpers.moments_of(g, batch_size=b))
    size = n * b
    np.testing.assert_allclose(
      e.sq_norm, (size * large - b * small) / (size - b), 1e-5)
    np.testing.assert_allclose(
      e.variance, (small - large) / (1 / b - 1 / size), 1e-5)

  def test_p2_2_diversity_of_a_finite_set(self):
    """n Δ = 1 + M."""
    g = RNG.normal(0.3, 1, size=(8, 6))
    e = exact(g)
    np.testing.assert_allclose(
      8 * gradiv.gradient_diversity(helpers.moments_of(g)),
      1 + e.variance / e.sq_norm, 1e-5)


class FitTest(parameterized.TestCase):

  @parameterized.parameters(0., 0.7)
  def test_p2_3_isotropic_least_squares(self, stddev):
    d, fits, lines = 4, [], []
    for seed in range(8):
      x = np.outer(np.linspace(0, 2, 12), np.ones(d) / 2)
      e = exact(least_squares(x, np.eye(d), stddev, 3000,
                              np.random.default_rng(seed)))
      # ‖∇f‖² is known; of an estimate, its noise would bias M.
      e = e._replace(sq_norm=np.sum(x**2, 1))
      fits.append(scaling.fit_noise(e))
      lines.append(np.polyfit(*e, 1))
    helpers.assert_mean([f.relative for f in fits], d + 1)
    helpers.assert_mean(np.array(lines), (d + 1, stddev**2 * d))
    for fit, line in zip(fits, lines):
      if line.min() >= 0:
        np.testing.assert_allclose(fit, line)
      else:
        self.assertEqual(fit.absolute, 0)

  def test_p2_3_along_eigenvectors(self):
    values = np.array([0.5, 1., 2.])
    for k, value in enumerate(values):
      m = []
      for _ in range(8):
        e = exact(least_squares(
          np.eye(3)[[k]], np.diag(values), 0., 4000))
        m.append(scaling.fit_noise(
          e._replace(sq_norm=np.array([value**2]))).relative)
      helpers.assert_mean(m, 1 + values.sum() / value)

  def test_p2_3_label_noise_is_of_the_trace(self):
    # At the solution only σ² = σ_e² tr S is left, whatever S.
    values, stddev = np.array([0.5, 1., 2.]), 0.7
    seen = [exact(least_squares(
      np.zeros((1, 3)), np.diag(values), stddev, 4000)).variance[0]
      for _ in range(8)]
    helpers.assert_mean(seen, stddev**2 * values.sum())

  @parameterized.parameters(scaling.fit_noise, scaling.bound_noise)
  def test_p2_3_cases_without_error(self, fit):
    n = 6
    r = RNG.normal(size=(5, n))
    # One row each: M = n − 1.
    found = fit(exact(r[..., None] * np.eye(n)))
    np.testing.assert_allclose(found, (n - 1, 0), atol=1e-9)
    # Noise that does not know of x: M = 0.
    noise = RNG.normal(size=(n, 3))
    noise -= noise.mean(0)
    found = fit(exact(noise + RNG.normal(size=(5, 1, 3))))
    np.testing.assert_allclose(
      found, (0, np.mean(np.sum(noise**2, 1))), atol=1e-9)
    # Equal samples.
    same = np.repeat(RNG.normal(size=(5, 1, 3)), n, 1)
    np.testing.assert_allclose(fit(exact(same)), (0, 0), atol=1e-9)

  def test_bounds_hold_at_both_ends(self):
    """Where the line would have a negative coefficient, it is zero."""
    g = np.array([1., 2., 3.])
    fit = lambda v: scaling.fit_noise(gradiv.Estimate(g, np.array(v)))
    self.assertEqual(fit([3., 2., 1.]), (0., 2.))
    slope, offset = fit([0., 2., 4.])
    self.assertAlmostEqual(slope, 16 / 14)
    self.assertEqual(offset, 0)
    self.assertEqual(fit([-1., -1., -1.]), (0., 0.))

  def test_the_least_squares_are_least(self):
    for _ in range(20):
      g, v = RNG.exponential(size=(2, 6))
      found = scaling.fit_noise(gradiv.Estimate(g, v))
      miss = lambda m, s: np.sum((m * g + s - v)**2)
      self.assertGreaterEqual(min(found), 0)
      for m, s in itertools.product(np.linspace(0, 4, 41), repeat=2):
        self.assertLessEqual(miss(*found), miss(m, s) + 1e-9)

  def test_the_envelope_is_the_tightest(self):
    for _ in range(20):
      g, v = RNG.exponential(size=(2, 7))
      m, s = scaling.bound_noise(gradiv.Estimate(g, v))
      self.assertGreaterEqual(min(m, s), 0)
      self.assertGreaterEqual((m * g + s - v).min(), -1e-9)
      # The least offset at each slope, on a grid.
      for other in np.linspace(0, 20, 2001):
        offset = max((v - other * g).max(), 0)
        self.assertLessEqual(m * g.mean() + s,
                             other * g.mean() + offset + 1e-9)

  def test_what_is_not_known_is_left_out(self):
    points = gradiv.Estimate(np.array([1., np.nan, 2., np.inf]),
                             np.array([5., 1., 8., 2.]))
    for fit in (scaling.fit_noise, scaling.bound_noise):
      np.testing.assert_allclose(fit(points), (3, 2))
      with self.assertRaisesRegex(ValueError, 'points'):
        fit(gradiv.Estimate(np.nan, np.nan))
      with self.assertRaisesRegex(ValueError, '2 sq_norm and 3 variance'):
        fit(gradiv.Estimate(np.ones(2), np.ones(3)))

  def test_points_of_one_gradient_norm(self):
    points = gradiv.Estimate(np.full(3, 2.), np.array([3., 4., 5.]))
    self.assertEqual(scaling.fit_noise(points), (2., 0.))
    self.assertEqual(scaling.bound_noise(points), (0., 5.))


class SparseTest(parameterized.TestCase):

  @parameterized.parameters(0.05, 0.3, 1.)
  def test_p2_15_sparse_gradients_bound_m_below(self, share):
    for seed in range(10):
      rng = np.random.default_rng(seed)
      g = rng.normal(0.5, 1, size=(200, 12)) * (
        rng.uniform(size=(200, 12)) < share)
      e = exact(g)
      density = scaling.gradient_density({'a': g[:, :5], 'b': g[:, 5:]})
      self.assertAlmostEqual(density, (g != 0).mean(0).max())
      self.assertGreaterEqual(
        e.variance / e.sq_norm, scaling.least_noise_ratio(density) - 1e-9)

  def test_p2_15_equality_where_each_has_one_coordinate(self):
    n = 9
    grads = np.full(n, 0.7)[:, None] * np.eye(n)
    e = exact(grads)
    self.assertAlmostEqual(
      e.variance / e.sq_norm,
      scaling.least_noise_ratio(scaling.gradient_density(grads)))

  @parameterized.parameters(0., -1., 1.5)
  def test_bad_density(self, density):
    with self.assertRaisesRegex(ValueError, f'density={density}'):
      scaling.least_noise_ratio(density)


if __name__ == '__main__':
  absltest.main()
