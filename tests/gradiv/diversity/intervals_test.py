"""The interval keeps what it promises: coverage by simulation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv.diversity import intervals

REPETITIONS = 3000
STEPS = 400
BATCH = 32
DIMS = 32


@functools.partial(jax.jit, static_argnames=('workers', 'decay'))
def track(draws, noise, drift, noise_drift, *, workers, decay):
  """Follow one run; return what the interval says of each step."""
  b = BATCH // workers

  def step(averages, at):
    t, along, rest, spread = at
    signal = jnp.exp(-drift * t)
    variance = noise * jnp.exp(-noise_drift * t)
    scale = variance / DIMS / b / workers
    sample = gradiv.estimate(gradiv.Moments(
      num_gradients=workers,
      batch_size=b,
      sq_norm_of_mean=(
        (jnp.sqrt(signal) + jnp.sqrt(scale) * along)**2 + scale * rest),
      mean_sq_deviation=scale * spread,
    ))
    averages = intervals.update(averages, sample, decay)
    interval = intervals.interval(averages, decay)
    ends = [gradiv.inverse_batch_size_bound(e)
            for e in (interval.upper, interval.lower)]
    truth = signal / (signal + variance)
    covers = (ends[0] <= truth) & (truth <= ends[1])
    at_least = intervals.batch_size_at_least(averages, decay)
    return averages, (covers, interval.is_trusted, ends[1] / ends[0],
                      at_least, 1 / truth, intervals.window(averages, decay))

  return jax.lax.scan(step, intervals.init(), draws)[1]


def simulate(noise, drift, noise_drift, *, workers, decay):
  """Track many runs of Gaussian gradients: [repetitions, steps] each.

  ‖∇F‖² = exp(−drift·t) and tr Σ = noise·exp(−noise_drift·t), isotropic. Then
  ‖ḡ‖² is a square of a normal draw along the mean and a χ² of the rest, and
  Σ‖g_i − ḡ‖² is another χ², independent of both.
  """
  rng = np.random.default_rng(0)
  size = (REPETITIONS, STEPS)
  draws = [np.tile(np.arange(STEPS), (REPETITIONS, 1)), rng.normal(size=size),
           rng.chisquare(DIMS - 1, size),
           rng.chisquare((workers - 1) * DIMS, size)]
  follow = functools.partial(track, workers=workers, decay=decay)
  return jax.vmap(follow, (0, None, None, None))(
    tuple(np.float32(d) for d in draws), noise, drift, noise_drift)


class CoverageTest(parameterized.TestCase):

  @parameterized.named_parameters(
    ('well_known', 30., 0., 0., 8, 0.99),
    ('barely_known', 300., 0., 0., 8, 0.99),
    ('two_workers', 30., 0., 0., 2, 0.99),
    ('signal_falls', 100., 0.002, 0., 8, 0.99),
    ('both_fall', 30., 0.002, 0.001, 8, 0.99),
    ('signal_grows', 300., -0.002, 0., 8, 0.99),
    ('short_memory', 100., 0.005, 0., 8, 0.95),
  )
  @pytest.mark.slow
  def test_covers_the_truth_of_now(
      self, noise, drift, noise_drift, workers, decay):
    covers, trusted, _, at_least, truth, _ = simulate(
      noise, drift, noise_drift, workers=workers, decay=decay)
    for step in (60, 100, 200, 400):
      self.assertBetween(
        float(covers[:, step - 1].mean()), 0.93, 0.97, f'step {step}')
      # The bound may be vacuous, and then holds.
      holds = (at_least <= truth)[:, step - 1]
      self.assertBetween(float(holds.mean()), 0.93, 1., f'step {step}')
    # Trust is never given on a guess.
    self.assertFalse(bool(trusted[:, :10].any()))

  def test_trust_comes_with_data(self):
    _, trusted, width, at_least, truth, window = simulate(
      30., 0., 0., workers=8, decay=0.99)
    self.assertGreater(float(trusted[:, -1].mean()), 0.93)
    self.assertTrue(bool((width[trusted] <= 2 + 1e-5).all()))
    # So does the bound, and the window is that of the average: 98.2 of 100
    # steps by weight after 400.
    self.assertBetween(
      float((at_least <= truth)[:, -1].mean()), 0.93, 0.98)
    known = width <= 2
    self.assertTrue(bool((window[:, -1] == 98)[known[:, -1]].all()))
    self.assertFalse(bool(window[~known].any()))

  def test_trust_is_lost_to_a_drift(self):
    """Over a window of 100 steps ‖∇F‖² falls e-fold: the average lags."""
    _, trusted, *_ = simulate(30., 0.01, 0., workers=8, decay=0.99)
    self.assertLess(float(trusted[:, 199:].mean()), 0.01)

  @parameterized.parameters(0.003, 0.005, 0.01, -0.005)
  @pytest.mark.slow
  def test_at_a_fast_drift_few_are_trusted_and_wrong(self, drift):
    """Measured: up to 0.062, above the nominal 0.05, where ‖∇F‖² grows."""
    covers, trusted, *_ = simulate(
      100., drift, drift / 2, workers=8, decay=0.99)
    wrong = (trusted & ~covers).mean(0)
    self.assertLess(float(wrong.max()), 1 / 14)

  def test_no_trust_where_the_signal_is_lost(self):
    covers, trusted, _, at_least, truth, window = simulate(
      3e4, 0., 0., workers=8, decay=0.99)
    # But B_S is known to be far above the batch of 32.
    self.assertGreater(float(jnp.median(at_least[:, -1])), 100)
    self.assertBetween(
      float((at_least <= truth)[:, -1].mean()), 0.93, 1)
    self.assertLess(float((window[:, -1] > 0).mean()), 0.05)
    self.assertLess(float((trusted & ~covers)[:, -1].mean()), 0.05)
    self.assertLess(float(trusted[:, -1].mean()), 0.05)


class IntervalTest(absltest.TestCase):

  def test_of_a_metric_is_in_order(self):
    interval = intervals.Interval(
      gradiv.Estimate(jnp.float32(.5), jnp.float32(.5)),
      gradiv.Estimate(jnp.float32(0), jnp.float32(1)), jnp.array(False))
    self.assertEqual(interval.of(gradiv.batch_size_bound), (2, np.inf))
    self.assertEqual(interval.of(gradiv.inverse_batch_size_bound), (0, .5))

  @pytest.mark.slow
  def test_the_bound_inverts_a_one_sided_test(self):
    """The largest p that is not rejected, by search over a grid."""
    rng = np.random.default_rng(4)
    grid = np.linspace(0, 1, 100_001)
    found = []
    for noise in (.3, 1, 3, 10, 30):
      for _ in range(20):
        averages = intervals.init()
        for g, s in zip(rng.normal(1, noise, 40), rng.normal(3, noise, 40)):
          averages = intervals.update(
            averages, gradiv.Estimate(jnp.float32(g), jnp.float32(s)), .95)
        (g, s), (gg, gs, ss) = jax.tree.map(
          np.asarray, intervals._fit(averages))
        t = float(intervals._student(
          intervals._freedom(averages.count, .95), .95))
        gap = grid * (g + s) - g
        spread = grid**2 * (gg + 2 * gs + ss) - 2 * grid * (gg + gs) + gg
        accepted = grid[gap <= t * np.sqrt(np.maximum(spread, 0))]
        # All are rejected where G is far below zero.
        most = accepted.max(initial=0)
        found.append(most)
        np.testing.assert_allclose(
          1 / intervals.batch_size_at_least(averages, .95), most, atol=2e-5)
    self.assertIn(1, found)
    self.assertGreater(sum(0 < p < 1 for p in found), 20)


class AveragesTest(parameterized.TestCase):

  def run_through(self, g, s, decay=0.9):
    averages = intervals.init()
    for x, y in zip(g, s):
      averages = intervals.update(
        averages, gradiv.Estimate(jnp.float32(x), jnp.float32(y)), decay)
    return averages

  def test_average_is_debiased_and_never_clipped(self):
    rng = np.random.default_rng(0)
    g, s = rng.normal(0, 1, 30), rng.normal(5, 1, 30)
    weights = 0.9 ** np.arange(30)[::-1]
    average = intervals.average(self.run_through(g, s))
    np.testing.assert_allclose(
      average.sq_norm, weights @ g / weights.sum(), 1e-5, 1e-6)
    np.testing.assert_allclose(
      average.variance, weights @ s / weights.sum(), 1e-5)

  def test_level_and_covariance_equal_a_weighted_fit(self):
    rng = np.random.default_rng(1)
    t = np.arange(40.)
    x = np.stack([3 - 0.05 * t, 10 + 0.1 * t]) + rng.normal(size=(2, 40))
    weights = 0.9 ** t[::-1]
    design = np.stack([np.ones(40), t - 39], 1)
    fit = np.linalg.solve(
      design.T @ (weights[:, None] * design), (design * weights[:, None]).T)
    ours, covariance = intervals._fit(self.run_through(*x))
    np.testing.assert_allclose(ours, x @ fit[0], 1e-3)
    bend = (x[:, 2:] - 2 * x[:, 1:-1] + x[:, :-2]) / np.sqrt(6)
    squares = fit[0]**2
    local = np.einsum('t,it,jt->ij', squares[2:], bend, bend)
    local *= squares.sum() / squares[2:].sum()
    np.testing.assert_allclose(
      covariance, [local[0, 0], local[0, 1], local[1, 1]], 1e-3)

  def test_a_line_has_no_spread(self):
    t = np.arange(50.)
    averages = self.run_through(8 + t, 64 + 2 * t)
    level, covariance = intervals._fit(averages)
    np.testing.assert_allclose(level, [57, 162], 1e-4)
    np.testing.assert_allclose(covariance, np.zeros(3), atol=1e-8)

  def test_nothing_known_at_first(self):
    for steps in range(4):
      interval = intervals.interval(
        self.run_through([1.] * steps, [2.] * steps), 0.9)
      self.assertEqual(float(interval.upper.sq_norm), 0)
      self.assertEqual(float(interval.lower.sq_norm), 1)
      self.assertFalse(bool(interval.is_trusted))
      averages = self.run_through([1.] * steps, [2.] * steps)
      self.assertEqual(float(intervals.batch_size_at_least(averages, 0.9)), 1)
      self.assertEqual(int(intervals.window(averages, 0.9)), 0)

  @parameterized.parameters((3, 3.182), (5, 2.571), (10, 2.228), (60, 2.000))
  def test_student(self, freedom, quantile):
    self.assertAlmostEqual(
      float(intervals._student(jnp.float32(freedom), 0.95)), quantile,
      delta=0.03)


if __name__ == '__main__':
  absltest.main()
