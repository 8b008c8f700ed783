"""CAGrad, against SciPy's maximum, and where the maximum is not unique."""

import numpy as np
import scipy.optimize
from absl.testing import absltest, parameterized

from gradiv import weightings
from tests.gradiv.weightings import inputs, rules

C = {'cagrad': .5, 'wide cagrad': 1.5}


def cagrad(rows, c):
  """Maximize t over (d, t): ⟨g_i, d⟩ ≥ t, ‖d − ḡ‖ ≤ c‖ḡ‖."""
  q = np.linalg.qr(rows.T)[0]
  rows = rows @ q
  mean = rows.mean(0)
  radius = c * np.linalg.norm(mean)
  found = scipy.optimize.minimize(
    lambda z: -z[-1], np.append(mean, (rows @ mean).min()),
    jac=lambda z: np.append(np.zeros(len(mean)), -1), method='SLSQP',
    constraints=(
      dict(type='ineq', fun=lambda z: rows @ z[:-1] - z[-1],
           jac=lambda z: np.hstack([rows, -np.ones((len(rows), 1))])),
      dict(type='ineq',
           fun=lambda z: radius**2 - np.sum((z[:-1] - mean)**2),
           jac=lambda z: np.append(-2 * (z[:-1] - mean), 0))),
    options=dict(maxiter=1000, ftol=1e-14))
  return q @ found.x[:-1]


def degenerate(n, seed):
  """Return random rows of low rank, zeros, and rows that cancel."""
  rng = np.random.default_rng(seed)
  rank = rng.integers(1, n + 1)
  rows = rng.normal(size=(n, rank)) @ rng.normal(size=(rank, 7))
  if seed % 2:
    rows[rng.random(n) < .4] = 0
  if seed % 3 == 0:
    rows[1] = -rows[0] * rng.choice([1, 3])
  return rows * rng.choice([1, 1e-6, 1e6])


class CAGradTest(parameterized.TestCase):

  @parameterized.product(n=inputs.SIZES, name=tuple(C))
  def test_definition(self, n, name):
    # SciPy is slow at this.
    kinds = inputs.LOSS_KINDS if n < 16 else ('random', 'rank deficient')
    for kind in kinds:
      with self.subTest(kind):
        rows = inputs.losses(kind, n)
        d, best = rules.update(name, rows), cagrad(rows, C[name])
        mean = rows.mean(0)
        length = np.linalg.norm(mean)
        self.assertAlmostEqual(
          np.linalg.norm(d - mean) / length, C[name], places=4)
        scale = length * np.linalg.norm(rows, axis=1).min()
        self.assertLess(
          abs((rows @ d).min() - (rows @ best).min()), 1e-4 * scale)
        self.assertLess(
          np.linalg.norm(d - best), 2e-4 * np.linalg.norm(best))

  @parameterized.parameters(2, 5)
  def test_a_wide_ball_holds_a_direction_in_which_none_loses(self, n):
    for kind in inputs.LOSS_KINDS:
      rows = inputs.losses(kind, n)
      d = rules.update('wide cagrad', rows)
      lengths = np.linalg.norm(rows, axis=1) * max(np.linalg.norm(d), 1e-30)
      self.assertGreater((rows @ d / lengths).min(), -2e-3)

  def test_a_ball_of_no_size_holds_the_mean(self, n=5):
    rows = inputs.losses('conflicting', n)
    np.testing.assert_allclose(
      rules.compiled(weightings.cagrad, 0.)(inputs.gram_of(rows)),
      np.full(n, 1 / n), 1e-5)

  @parameterized.parameters(2, 5)
  def test_the_worst_gains_more_than_from_the_mean(self, n):
    for kind in inputs.SOLVABLE:
      rows = inputs.losses(kind, n)
      worst = lambda d: (rows @ d).min()
      best, mean = worst(rules.update('cagrad', rows)), worst(rows.mean(0))
      self.assertGreaterEqual(best, mean - 1e-5 * abs(mean))

  @parameterized.parameters(
    ([[1, 0], [-1, 0], [0, 1]], [0, 1 / 3]),
    ([[1, 0], [0, 0]], [.5, 0]),
    # The mean conflicts with the last two: the nearest that does not.
    ([[1, 0, 0], [-1, 0, 0], [0, 2, 1], [0, 0, -.2], [0, 0, -.2]],
     [0, .4, 0]))
  def test_if_the_smallest_gain_is_zero_the_nearest_to_the_mean(
      self, rows, expected):
    # Those up to five are absent.
    rows, present = np.array(rows, float), np.arange(5) < len(rows)
    rows = np.pad(rows, ((0, 5 - len(rows)), (0, 0)))
    weights = rules.weigh('cagrad', rows @ rows.T, present)
    np.testing.assert_allclose(weights @ rows, expected, atol=1e-4)
    self.assertFalse(rules.weigh('wide cagrad', rows @ rows.T, present).any())

  @parameterized.product(n=(2, 5), name=tuple(C))
  def test_the_update_stays_in_the_ball(self, n, name):
    for seed in range(60):
      rows = degenerate(n, seed)
      mean, scale = rows.mean(0), np.linalg.norm(rows, axis=1).max()
      d = rules.update(name, rows)
      with self.subTest(seed):
        self.assertLessEqual(
          np.linalg.norm(d - mean),
          (C[name] + 1e-3) * np.linalg.norm(mean) + 1e-4 * scale)
        # And the smallest gain is no worse than that of the mean.
        self.assertGreaterEqual(
          (rows @ d).min(), min((rows @ mean).min(), 0) - 1e-4 * scale**2)

  @parameterized.parameters(-1., float('inf'), float('nan'))
  def test_the_radius_is_finite_and_not_negative(self, c):
    with self.assertRaisesRegex(ValueError, '^c='):
      weightings.cagrad(c)


if __name__ == '__main__':
  absltest.main()
