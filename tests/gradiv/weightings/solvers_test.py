"""The convex solvers against SciPy and by optimality conditions, in loops."""

import jax
import numpy as np
import scipy.optimize
from absl.testing import absltest, parameterized

from gradiv.weightings import _solvers

RNG = np.random.default_rng(4)
nonnegative = jax.jit(_solvers.nonnegative)


def hessian(n, condition):
  q = np.linalg.qr(RNG.normal(size=(n, n)))[0]
  h = (q * np.geomspace(1, 1 / condition, n)) @ q.T
  return np.float32((h + h.T) / 2)


def violation(h, q, u):
  """How far from optimal, relative to |H||u| + |q|."""
  h, q, u = (np.asarray(x, float) for x in (h, q, u))
  slope = (h @ u + q) / np.maximum(np.abs(h) @ u + np.abs(q), 1e-300)
  return max(0, -u.min(), -slope.min(), np.abs(slope[u > 0]).max(initial=0))


class NonnegativeTest(parameterized.TestCase):

  @parameterized.product(
    n=(1, 2, 8, 64), condition=(1., 1e2, 1e4, 1e6))
  def test_conditions_and_scipy(self, n, condition):
    for attempt in range(6):
      h, q = hessian(n, condition), np.float32(RNG.normal(size=n))
      if attempt % 2:
        q = h @ q  # The unconstrained minimum is then of moderate size.
      u = nonnegative(h, q)
      self.assertLess(violation(h, q, u), 2e-6)
      if condition > 1e4:
        continue
      root = np.linalg.cholesky(h.astype(float))
      best = scipy.optimize.nnls(
        root.T, -np.linalg.solve(root, q.astype(float)), maxiter=1000)[0]
      np.testing.assert_allclose(
        u, best, atol=1e-6 * condition * np.abs(best).max(initial=1e-9))
      np.testing.assert_array_equal(
        np.asarray(u) > 1e-2 * best.max(initial=1), best > 1e-2 * best.max(
          initial=1))

  def test_bounds_are_met_exactly(self):
    u = np.asarray(nonnegative(hessian(16, 1e2), np.linspace(-1, 1, 16)))
    self.assertTrue((u >= 0).all())
    self.assertGreater((u == 0).sum(), 0)
    self.assertGreater((u > 0).sum(), 0)

  @parameterized.parameters(1e-30, 1e-10, 1e10, 1e30)
  def test_scales(self, scale):
    h, q = hessian(8, 1e2), np.float32(RNG.normal(size=8))
    expected = nonnegative(h, q)
    # Each is known to a fraction of the largest: h has condition 1e2.
    np.testing.assert_allclose(
      nonnegative(h * np.float32(scale), q * np.float32(scale)), expected,
      rtol=1e-4, atol=1e-6 * np.abs(expected).max())

  def test_badly_scaled_unknowns(self):
    h, q = hessian(8, 1e2), np.float32(RNG.normal(size=8))
    d = np.float32(np.geomspace(1e-6, 1e6, 8))
    np.testing.assert_allclose(
      d * nonnegative(d[:, None] * h * d, q * d), nonnegative(h, q),
      rtol=1e-3, atol=1e-5)

  @parameterized.parameters(2, 8, 64)
  def test_semidefinite_stays_feasible_and_finite(self, n):
    for h in (np.ones((n, n)), np.zeros((n, n)) + np.diag(1 - np.eye(n)[0])
              + np.eye(n)[0][:, None] * np.eye(n)[0]):
      for q in (-np.ones(n), np.linspace(-1, 1, n)):
        u = np.asarray(nonnegative(np.float32(h), np.float32(q)))
        self.assertTrue(np.isfinite(u).all() and (u >= 0).all())

  def test_same_under_vmap_and_scan(self):
    h = np.stack([hessian(8, 10.**i) for i in range(5)])
    q = np.float32(RNG.normal(size=(5, 8)))
    each = np.stack([nonnegative(*hq) for hq in zip(h, q)])
    mapped = jax.jit(jax.vmap(_solvers.nonnegative))(h, q)
    scanned = jax.jit(lambda h, q: jax.lax.scan(
      lambda _, hq: (None, _solvers.nonnegative(*hq)), None, (h, q))[1])(h, q)
    np.testing.assert_allclose(mapped, each, rtol=5e-3, atol=1e-4)
    np.testing.assert_allclose(scanned, each, rtol=5e-3, atol=1e-4)


class ReciprocalTest(parameterized.TestCase):

  @parameterized.product(n=(1, 2, 8, 64), condition=(1., 1e2, 1e4))
  def test_equation(self, n, condition):
    h = hessian(n, condition)
    a = np.asarray(jax.jit(_solvers.reciprocal)(h), float)
    self.assertGreater(a.min(), 0)
    # As exact as float32 can add up the products of the equation.
    rounding = np.finfo(np.float32).eps * a * (np.abs(h) @ a)
    np.testing.assert_array_less(
      np.abs(a * (h @ a) - 1), 1e-5 + 2 * rounding)

  def test_gradients_that_cancel(self):
    h = np.float32([[1, -1], [-1, 1]] + 1e-6 * np.eye(2))
    a = np.asarray(jax.jit(_solvers.reciprocal)(h), float)
    np.testing.assert_allclose(a @ h @ a, 2, 0.2)


class HighestLevelTest(parameterized.TestCase):

  @parameterized.product(n=(1, 2, 8), radius=(1e-3, 0.5, 20.))
  def test_conditions(self, n, radius):
    rows = RNG.normal(size=(n, 40)) + 0.3
    start = rows.mean(0)
    h, b = np.float32(rows @ rows.T), np.float32(rows @ start)
    top = np.float32(
      (b + radius * np.linalg.norm(rows, axis=1)).min())
    t, u = jax.jit(_solvers.highest_level)(h, b, np.float32(radius), top)
    u = np.asarray(u, float)
    self.assertTrue((u >= 0).all())
    move = u @ rows
    # The level is known to the rounding of b, and d‖move‖/dt = Σu/‖move‖.
    rounding = np.finfo(np.float32).eps * np.abs(b).max() * u.sum() / radius
    np.testing.assert_allclose(
      np.linalg.norm(move), radius, 1e-5, 4 * rounding)
    levels = rows @ (start + move)
    scale = np.abs(b).max() + radius
    np.testing.assert_allclose(levels.min(), t, atol=1e-5 * scale)
    # Optimal: all that pull are at the level, and the move is along Jᵀu.
    np.testing.assert_allclose(
      levels[u > 0], float(t), atol=2e-5 * scale)


if __name__ == '__main__':
  absltest.main()
