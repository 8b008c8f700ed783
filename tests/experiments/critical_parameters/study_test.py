"""What the studies of critical parameters simulate, against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments.critical_parameters import (
  quadratics,
  sparse,
  study,
  theory,
  tuning,
)
from tests import helpers


class LeastSquaresTest(parameterized.TestCase):

  @parameterized.parameters((1, 0.), (1, 0.7), (3, 0.), (3, 0.7))
  def test_batches_have_the_law_of_the_sum(self, batch, noise):
    """Mean, variance along x and off it, as of b examples drawn one by one."""
    d, runs = 4, 40_000
    cell = quadratics.Cell(d, noise, batch, 0)
    x = np.array([0.5, -1., 0.2, 0.1])
    draws = quadratics._draws(cell, runs, 1, seed=0)
    g = quadratics.gradient(
      jnp.float32(x)[None], tuple(n[0] for n in draws), noise, batch,
      jax.random.normal(jax.random.key(0), (runs, d)))
    g, unit = np.asarray(g, float), x / np.linalg.norm(x)
    helpers.assert_mean(g, x)
    square = x @ x
    along = (2 * square + noise**2) / batch
    off = (square + noise**2) / batch * (d - 1)
    helpers.assert_mean(((g - x) @ unit)**2, along)
    helpers.assert_mean(np.sum((g - (g @ unit)[:, None] * unit)**2, 1), off)
    # In all (M/b, σ²/b)-bounded, with equality.
    self.assertAlmostEqual(
      along + off, ((d + 1) * square + noise**2 * d) / batch)
    a = np.random.default_rng(1).normal(size=(runs, batch, d))
    e = noise * np.random.default_rng(2).normal(size=(runs, batch))
    plain = np.einsum('rbi,rb->ri', a, a @ x - e) / batch
    fourth = lambda g: np.sum((g - x)**2, 1)**2
    gap = fourth(g).mean() - fourth(plain).mean()
    error = np.sqrt((fourth(g).var() + fourth(plain).var()) / runs)
    self.assertLess(abs(gap), 4 * error)

  @parameterized.parameters(0, 3)
  def test_steps_are_those_of_the_exact_radius(self, tau):
    """In the mean of many trajectories, at the best rate."""
    d, target = 8, 1e-3
    cell = quadratics.Cell(d, 0., 4, tau)
    m = (d + 1) / 4
    rate, step = theory.best_rate(m, tau)
    steps = quadratics.steps_to(
      cell, target, (step,), 4, together=256, max_steps=256,
      max_staleness=4, seed=0)
    exact = np.log(target) / np.log(1 - rate)
    self.assertBetween(steps.mean() / (exact + tau), 0.8, 1.2)

  def test_what_diverges_or_is_too_slow_is_infinite(self):
    cell = quadratics.Cell(8, 0., 4, 3)
    steps = quadratics.steps_to(
      cell, 1e-3, (2., 1e-4, 0.1), 2, max_steps=100, max_staleness=4, seed=0)
    self.assertTrue(np.isinf(steps[:2]).all())
    self.assertTrue(np.isfinite(steps[2]).all())

  @parameterized.parameters((16, 0), (16, 4))
  def test_the_limit_of_the_rate(self, batch, tau):
    cell = quadratics.Cell(60, 0., batch, tau)
    growth = quadratics.growth(
      cell, study.LIMIT_RATES, 4, num_steps=256, max_staleness=4,
      seed=0)
    exact = theory.mean_square_limit(61 / batch, tau)
    limits = np.array(study.limits(growth))
    self.assertBetween(limits.mean() / exact, 0.93, 1.1)


class LimitsTest(absltest.TestCase):

  def test_between_the_last_two(self):
    rates = np.array(study.LIMIT_RATES)
    growth = np.where(rates > 0.1, np.inf, -1.)
    i = int(np.argmax(rates <= 0.1))
    middle = np.sqrt(rates[i] * rates[i - 1])
    found, = study.limits(growth[:, None])
    self.assertAlmostEqual(found, middle)
    growth[i - 1], growth[i] = 3., -1.
    found, = study.limits(growth[:, None])
    self.assertAlmostEqual(
      found, rates[i] * (rates[i - 1] / rates[i])**0.25)

  def test_unknown_at_the_ends(self):
    for value in (1., -1.):
      growth = np.full((len(study.LIMIT_RATES), 1), value)
      self.assertEqual(study.limits(growth), [None])


class SparseTest(parameterized.TestCase):

  @parameterized.parameters((8, 1), (8, 4), (16, 2))
  def test_density_is_exact(self, d, k):
    a = sparse.features(d, k, seed=0)
    np.testing.assert_allclose(np.mean(a != 0, 0), k / d)
    np.testing.assert_allclose(np.sum(a**2, 1), 1, 1e-6)
    m, density = sparse.measure_noise(
      a, sparse.solution(d, seed=0))
    self.assertAlmostEqual(density, k / d)
    if k == 1:
      self.assertAlmostEqual(m, d - 1, 5)
    self.assertGreaterEqual(m, d / k - 1 - 1e-6)

  @parameterized.parameters(0, 3)
  def test_steps_are_those_of_a_plain_loop(self, tau):
    a = sparse.features(4, 2, seed=0)
    solved = sparse.solution(4, seed=0)
    kwargs = dict(target=0.05, num_runs=2, together=2, max_steps=128,
                  max_staleness=4, seed=5)
    found = sparse.steps_to(a, solved, tau, **kwargs)
    rows = np.random.default_rng([5, 2]).integers(len(a), size=(128, 4))
    sigmoid = lambda z: 1 / (1 + np.exp(-z))
    place = int(found.mean(1).argmin())
    x, past = np.zeros((4, 4)), []
    reached, streak = np.full(2, np.inf), np.zeros(2)
    for t in range(128):
      now = a[rows[t]].astype(float)
      past.append((sigmoid(np.sum(now * x, 1)) - sigmoid(now @ solved))[
        :, None] * now)
      if t >= tau:
        x = x - sparse.RATES[place] * past[t - tau]
      off = np.sum((x - solved)**2, 1).reshape(2, 2).mean(1)
      streak = np.where(off <= 0.05 * solved @ solved, streak + 1, 0)
      reached[(streak > tau) & np.isinf(reached)] = t + 1 - tau
    self.assertTrue(np.isfinite(reached).all())
    np.testing.assert_array_equal(found[place], reached)


class TuningTest(absltest.TestCase):

  def test_a_rate_is_chosen_on_the_other_runs(self):
    # At the first rate two are lucky; of them the third one takes it.
    steps = np.array([[5., 5., np.inf], [10., 12., 14.]])
    found = tuning.choose(steps, (0.2, 0.1))
    self.assertEqual(found['steps'], [10., 12., None])
    self.assertEqual(found['rates'], [0.1, 0.1, 0.2])

  def test_doubling(self):
    at, nan = np.array([0, 4, 16]), np.nan
    steps = np.array([[10., 10., 10., nan], [15., 25., 15., 15.],
                      [45., 60., nan, 45.]])
    np.testing.assert_allclose(
      tuning.doubling(at, steps), [6, 8 / 3, nan, nan])
    np.testing.assert_array_equal(
      tuning.doubling(at, steps[:1].repeat(3, 0)), nan)

  def test_interval(self):
    mean, low, high = tuning.interval(np.array([1., 2., 3.]))
    self.assertAlmostEqual(mean, 2)
    self.assertAlmostEqual(high - low, 2 * 4.303 / 3**0.5)
    # Twelve runs: 2.201 of Student's table.
    runs = np.arange(12.)
    _, low, high = tuning.interval(runs)
    self.assertAlmostEqual(
      (high - low) / 2 / (runs.std(ddof=1) / 12**0.5), 2.201, 2)
    self.assertTrue(np.isnan(tuning.interval(np.array([1., np.inf]))
                             ).all())


if __name__ == '__main__':
  absltest.main()
