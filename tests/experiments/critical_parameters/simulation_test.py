"""The simulations of critical parameters, against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments.critical_parameters import (
  counts,
  grids,
  quadratics,
  sparse,
  theory,
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
      cell, grids.LIMIT_RATES, 4, num_steps=256, max_staleness=4,
      seed=0)
    exact = theory.mean_square_limit(61 / batch, tau)
    limits = np.array(grids.limits(growth))
    self.assertBetween(limits.mean() / exact, 0.93, 1.1)


class LimitsTest(absltest.TestCase):

  def test_between_the_last_two(self):
    rates = np.array(grids.LIMIT_RATES)
    growth = np.where(rates > 0.1, np.inf, -1.)
    i = int(np.argmax(rates <= 0.1))
    middle = np.sqrt(rates[i] * rates[i - 1])
    found, = grids.limits(growth[:, None])
    self.assertAlmostEqual(found, middle)
    growth[i - 1], growth[i] = 3., -1.
    found, = grids.limits(growth[:, None])
    self.assertAlmostEqual(
      found, rates[i] * (rates[i - 1] / rates[i])**0.25)

  def test_unknown_at_the_ends(self):
    for value in (1., -1.):
      growth = np.full((len(grids.LIMIT_RATES), 1), value)
      self.assertEqual(grids.limits(growth), [None])


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


class RoundingTest(parameterized.TestCase):

  def test_reversed_sums_are_the_same_runs_rounded_otherwise(self):
    cell = quadratics.Cell(60, 0.3, 4, 2)
    grow = lambda is_reversed: quadratics.growth(
      cell, (0.05, 0.01), 3, num_steps=64, max_staleness=4, seed=0,
      is_reversed=is_reversed)
    plain, again = grow(False), grow(True)
    self.assertTrue((plain != again).any())
    np.testing.assert_allclose(again, plain, rtol=0, atol=1e-3)
    count = lambda is_reversed: quadratics.steps_to(
      cell._replace(label_noise=0.), 1e-3, (0.05, 0.01), 3, together=2,
      max_steps=2048, max_staleness=4, seed=0, is_reversed=is_reversed)
    np.testing.assert_allclose(count(True), count(False), rtol=0, atol=1)

  def test_reversed_columns_of_sparse_data_are_the_same_runs(self):
    a, solved = sparse.features(8, 2, seed=0), sparse.solution(8, seed=0)
    kwargs = dict(target=0.05, num_runs=2, together=2, max_steps=128,
                  max_staleness=4, seed=5)
    plain = sparse.steps_to(a, solved, 3, **kwargs)
    again = sparse.steps_to(a[:, ::-1], solved[::-1], 3, **kwargs)
    self.assertTrue(np.isfinite(plain).any())
    np.testing.assert_allclose(again, plain, rtol=0, atol=1)


class TuningTest(absltest.TestCase):

  def test_a_rate_is_chosen_on_the_other_runs(self):
    # Two runs are lucky at the first rate; only the third run chooses it.
    steps = np.array([[5., 5., np.inf], [10., 12., 14.]])
    found = counts.tuned(steps, (0.2, 0.1))
    self.assertEqual(found['steps'], [10., 12., None])
    self.assertEqual(found['rates'], [0.1, 0.1, 0.2])
    self.assertTrue(found['at_edge'])
    np.testing.assert_array_equal(
      counts.steps_of([found]), [[10., 12., np.nan]])

  def test_a_rate_in_the_middle_is_at_no_edge(self):
    steps = np.array([[9., 9., 9.], [5., 6., 7.], [9., 9., 9.]])
    self.assertFalse(counts.tuned(steps, (0.2, 0.1, 0.05))['at_edge'])

  def test_doubling(self):
    at, nan = (0, 4, 16), np.nan
    steps = np.array([[10., 10., 10., nan], [15., 25., 15., 15.],
                      [45., 60., nan, 45.]])
    np.testing.assert_allclose(
      counts.doubling(at, steps), [6, 8 / 3, nan, nan])
    np.testing.assert_array_equal(
      counts.doubling(at, steps[:1].repeat(3, 0)), nan)


if __name__ == '__main__':
  absltest.main()
