"""Windows are the sums that they say, and the shortest that knows is read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from gradiv.diversity import windows
from gradiv.diversity.estimates import Estimate

read = jax.jit(windows.read)
means_of = jax.jit(windows._means)
skewness_of = jax.jit(windows._skewness)


@jax.jit
def _run_through(samples):
  step = lambda state, sample: (windows.update(state, sample), None)
  return jax.lax.scan(step, windows.init(), samples)[0]


def run_through(g, s):
  """Add steps one by one."""
  return _run_through(Estimate(jnp.float32(g), jnp.float32(s)))


class SumsTest(parameterized.TestCase):

  @parameterized.parameters(5, 40, 400)
  def test_means_and_their_covariance(self, steps):
    """Against weights written out; over scales of many magnitudes."""
    rng = np.random.default_rng(0)
    fall = 10.**(-np.arange(steps) / 50)
    g, s = fall * rng.normal(.5, 1, steps), fall * rng.gamma(9, 1, steps)
    state = run_through(g, s)
    found, count, freedom = means_of(state)
    skewness = skewness_of(state, found)
    past = [np.sum((g + s)[:t] * .9**np.arange(t)[::-1])
            / np.sum(.9**np.arange(t)) for t in range(1, steps)]
    pairs = np.stack([g, g + s])[:, 1:] / past
    for i, length in enumerate(windows.LENGTHS):
      weights = (1 - 1 / length)**np.arange(steps - 1)[::-1]
      share = weights / weights.sum()
      mean = pairs @ share
      apart = pairs - mean[:, None]
      (gg, gm), (_, mm) = (apart * share**2) @ apart.T
      np.testing.assert_allclose(
        [found.signal[i], found.total[i]], mean, 1e-4, 1e-5)
      np.testing.assert_allclose(
        [x[i] for x in found.covariance], [gg, gm, mm], 1e-3, 1e-6)
      square = weights**2
      np.testing.assert_allclose(count[i], 1 / np.sum(share**2), 1e-4)
      np.testing.assert_allclose(
        freedom[i], square.sum()**2 / np.sum(square**2) - 1, 1e-3)
      errors = share * (pairs[0] - mean[0] / mean[1] * pairs[1])
      np.testing.assert_allclose(
        skewness[i], np.sum(errors**3) / np.sum(errors**2)**1.5, 1e-2, 1e-3)

  def test_the_unit_does_not_matter(self):
    rng = np.random.default_rng(1)
    g, s = rng.normal(1, 1, 60), rng.gamma(9, 1, 60)
    one, *others = (read(run_through(u * g, u * s))
                    for u in (1, 2.**66, 2.**-66))
    for other in others:
      np.testing.assert_allclose(other, one, 1e-5)

  def test_gradients_without_noise_or_without_anything(self):
    same = read(run_through(np.ones(40), np.zeros(40)))
    self.assertEqual((same.fraction, same.least, same.most), (1, 1, 1))
    self.assertGreater(int(same.window), 0)
    nothing = read(run_through(np.zeros(40), np.zeros(40)))
    self.assertEqual((nothing.least, nothing.most), (0, 1))
    self.assertEqual(float(nothing.batch_size_at_least), 1)
    self.assertEqual(int(nothing.window), 0)

  @pytest.mark.slow
  def test_a_leap_starts_anew_and_fills_no_window(self):
    rng = np.random.default_rng(2)
    g, s = rng.normal(1, .1, 80), rng.gamma(9, 1, 80)
    unit = np.where(np.arange(80) < 40, 1e-12, 1)
    state = run_through(unit * g, unit * s)
    self.assertTrue(np.isfinite(state.squares).all())
    self.assertLess(float(state.squares.max()), 1e3)
    known = read(state)
    self.assertGreater(int(known.window), 0)
    self.assertBetween(1 / float(known.fraction), 8, 12)


class ChoiceTest(parameterized.TestCase):

  def test_the_shortest_window_that_knows(self):
    """The noise asks for some 4·37 steps; the width is a factor of two."""
    rng = np.random.default_rng(3)
    draws = rng.normal(1, 2, 4000), rng.gamma(99, 1, 4000)
    known = read(run_through(*draws))
    at = windows.LENGTHS.index(int(known.window))
    self.assertLessEqual(float(known.most), 2 * float(known.least))
    self.assertBetween(float(known.fraction), float(known.least),
                       float(known.most))
    self.assertGreater(at, 0)
    self.assertLess(at, len(windows.LENGTHS) - 1)
    self.assertEqual(1 / known.most, known.batch_size_at_least)

  @pytest.mark.slow
  def test_predicts_how_long_it_takes(self):
    """(1.88 + 2·2.11)² = 37 times 16 steps, for G = 1 ± 4 without chance."""
    def first(n):
      at = np.arange(n)
      return read(run_through(1 + 4 * (-1.)**at, np.full(n, 99.)))
    self.assertTrue(np.isnan(first(3).steps_until_known))
    for seen in (101, 401, 541):
      self.assertBetween(float(first(seen).steps_until_known) + seen, 560, 610)
    self.assertEqual(int(first(541).window), 0)
    self.assertEqual(float(first(611).steps_until_known), 0)
    self.assertGreater(int(first(611).window), 0)

  def test_a_tail_widens_the_end_that_it_hides(self):
    """Rare large steps carry G, or lower it: more may be still to come."""
    rare = np.where(np.arange(400) % 50 == 7, 50., 0)
    for sign in (1, -1):
      state = run_through(1 + sign * (rare - 1), np.full(400, 99.))
      means, _, freedom = means_of(state)
      skewness = skewness_of(state, means)
      self.assertGreater(sign * float(skewness[-1]), .3)
      for side in (1, -1):
        wide, plain = (windows._quantile(freedom, .03, x)[-1]
                       for x in (side * skewness, 0 * skewness))
        # (2 z² + 1)/6 for the z of 97 %, which is 1.881.
        more = 1.346 * abs(float(skewness[-1])) if side == sign else 0.
        self.assertAlmostEqual(float(wide - plain), more, delta=.01)

  def test_what_no_window_will_know(self):
    rng = np.random.default_rng(5)
    known = read(run_through(
      rng.normal(1, 30, 20000), rng.gamma(99, 1, 20000)))
    self.assertEqual(int(known.window), 0)
    self.assertEqual(float(known.steps_until_known), np.inf)
    self.assertGreater(float(known.batch_size_at_least), 20)


if __name__ == '__main__':
  absltest.main()
