"""Delayed SGD on a quadratic: cases P2-4 to P2-7 of critical parameters.

Against the roots of the characteristic polynomial, the impulse itself, and the
[(τ + 1)², (τ + 1)²] operator on second moments.
"""

import math

import numpy as np
from absl.testing import absltest, parameterized

from experiments.critical_parameters import theory
from tests import helpers

# u_max at 0, 1, 4, 16, 64, 256 steps of delay, by M.
LIMITS = {
  0: (2.00000, 1.00000, 0.34730, 0.09516, 0.02435, 0.00612),
  1: (1.00000, 0.61803, 0.28463, 0.08973, 0.02398, 0.00610),
  4: (0.40000, 0.30623, 0.18816, 0.07671, 0.02293, 0.00603),
  16: (0.11765, 0.10634, 0.08455, 0.04949, 0.01954, 0.00576),
  64: (0.03077, 0.02988, 0.02759, 0.02168, 0.01253, 0.00491),
  256: (0.00778, 0.00772, 0.00755, 0.00696, 0.00545, 0.00314)}
DELAYS = (0, 1, 4, 16, 64, 256)
# r* at 0, 1, 4 and 16.
RATES = {1: (.5000, .3698, .2154, .0855), 4: (.2000, .1709, .1232, .0623),
         16: (.0588, .0557, .0486, .0335), 64: (.0154, .0152, .0145, .0126)}


def roots(step, tau):
  return np.roots([1., -1., *[0.] * (tau - 1), step] if tau else [1., step - 1])


def second_moments(step, tau, noise_ratio):
  """What takes E yyᵀ of y = (x_t, ..., x_{t−τ}) to the next."""
  a = np.eye(tau + 1, k=-1)
  a[0, 0] = 1.
  a[0, -1] -= step
  operator = np.kron(a, a)
  operator[0, -1] += step**2 * noise_ratio
  return operator


class DeterministicTest(parameterized.TestCase):

  @parameterized.parameters(0, 1, 2, 3, 7, 31)
  def test_p2_5_limit(self, tau):
    limit = theory.stability_limit(tau)
    radius = lambda u: np.abs(roots(u, tau)).max()
    self.assertAlmostEqual(radius(limit), 1, 9)
    self.assertLess(radius(0.999 * limit), 1)
    self.assertGreater(radius(1.001 * limit), 1)

  @parameterized.parameters(0, 1, 2, 3, 7, 31)
  def test_p2_5_best_step(self, tau):
    best = theory.best_step(tau)
    self.assertAlmostEqual(
      theory.spectral_radius(best, tau), tau / (tau + 1))
    # The root is double: found to half of the digits alone.
    self.assertAlmostEqual(
      np.abs(roots(best, tau)).max(), tau / (tau + 1), 6)
    for factor in (0.9, 0.99, 1.01, 1.1):
      self.assertGreater(
        theory.spectral_radius(factor * best, tau), tau / (tau + 1))

  @parameterized.parameters(0, 1, 2, 5, 17)
  def test_radius_is_that_of_the_roots(self, tau):
    for share in (0.01, 0.2, 0.5, 0.9, 0.999):
      step = share * theory.stability_limit(tau)
      self.assertAlmostEqual(theory.spectral_radius(step, tau),
                             np.abs(roots(step, tau)).max(), 10)


class MeanSquareTest(parameterized.TestCase):

  @parameterized.parameters(0, 1, 4, 30)
  def test_p2_6_energy_of_the_impulse(self, tau):
    for share in (0.05, 0.5, 0.95):
      step = share * theory.stability_limit(tau)
      h, length = [0.] * tau + [1.], round(3000 * (tau + 1))
      for _ in range(length):
        h.append(h[-1] - step * h[-1 - tau])
      np.testing.assert_allclose(
        theory.impulse_energy(step, tau), np.sum(np.square(h)), 1e-9)

  def test_p2_7_golden_table_and_the_two_sided_law(self):
    for m, row in LIMITS.items():
      for tau, limit in zip(DELAYS, row):
        found = theory.mean_square_limit(m, tau)
        self.assertAlmostEqual(found, limit, delta=5.1e-6)
        self.assertBetween(
          (tau + 1 + m) * found, math.pi / 2 - 1e-9, 2 + 1e-9)
    golden = (math.sqrt(5) - 1) / 2
    self.assertAlmostEqual(theory.mean_square_limit(1, 1), golden)

  @parameterized.parameters((0, 3.), (1, .01), (1, 1.), (3, 2.), (5, 40.))
  def test_growth_is_that_of_the_operator(self, tau, m):
    for share in (0.1, 0.5, 0.9, 1., 1.2):
      step = share * theory.mean_square_limit(m, tau)
      if step >= theory.stability_limit(tau):
        continue
      rho = theory.mean_square_radius(step, tau, m)
      self.assertAlmostEqual(
        rho, np.abs(np.linalg.eigvals(second_moments(step, tau, m))).max(), 9)
      self.assertEqual(rho > 1 + 1e-9, share > 1)

  def test_best_rate(self):
    for m, row in RATES.items():
      for tau, rate in zip((0, 1, 4, 16), row):
        found, step = theory.best_rate(m, tau)
        self.assertAlmostEqual(found, rate, delta=6e-5)
        self.assertBetween((tau + 1 + m) * found, 1 - 1e-9, 2)
        for factor in (0.8, 0.97, 1.03, 1.2):
          self.assertLess(1 - theory.mean_square_radius(
            factor * step, tau, m), found)
    self.assertAlmostEqual(theory.best_rate(0, 3)[0], 1 - (3 / 4)**2)


class BatchTest(parameterized.TestCase):

  @parameterized.parameters(1, 4, 32)
  def test_p2_4_a_step_on_isotropic_least_squares(self, batch):
    """E‖x₊‖² = (1 − 2η + η² (1 + M/b)) ‖x‖², M = d + 1, least at η*."""
    d, runs = 5, 20_000
    rng = np.random.default_rng(batch)
    a = rng.normal(size=(runs, batch, d))
    g = np.einsum('rbi,rb->ri', a, a[:, :, 0]) / batch  # at x = e_1
    x = np.eye(d)[0]
    best = batch / (batch + d + 1)
    for eta in (best, 0.5 * best, 1.5 * best):
      seen = np.sum((x - eta * g)**2, 1)
      law = 1 - 2 * eta + eta**2 * (1 + (d + 1) / batch)
      helpers.assert_mean(seen, law)
      self.assertGreaterEqual(law, 1 - best - 1e-12)
      self.assertAlmostEqual(
        theory.mean_square_radius(eta, 0, (d + 1) / batch), law)
    rate, step = theory.best_rate((d + 1) / batch, 0)
    self.assertAlmostEqual(rate, best)
    self.assertAlmostEqual(step, best)


class ArgumentsTest(parameterized.TestCase):

  @parameterized.parameters(
    (lambda: theory.stability_limit(-1), 'staleness=-1'),
    (lambda: theory.best_step(1.5), 'staleness=1.5'),
    (lambda: theory.impulse_energy(1., 1),
     'step=1.0: must be positive'),
    (lambda: theory.spectral_radius(0., 1), 'step=0.0'),
    (lambda: theory.mean_square_limit(-1, 1), 'noise_ratio=-1'))
  def test_bad(self, call, message):
    with self.assertRaisesRegex(ValueError, message):
      call()


if __name__ == '__main__':
  absltest.main()
