"""Windows keep what they promise: simulated, with known truth."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from gradiv.diversity import windows
from gradiv.diversity.estimates import Estimate

WORKERS = 16
DIMS = 10
STEPS = 3000
RUNS = 300
LOOKS = slice(20, None, 37)


def draw_scale(kind, key, shape):
  """Draw the norms of gradients, in units of their root mean square."""
  if kind == 't3':
    return jnp.sqrt(.5 / jax.random.gamma(key, 1.5, shape))
  if kind == 'lognormal':
    return jnp.exp(jax.random.normal(key, shape) - 1)
  return jnp.ones(shape)


def draw(kind, key):
  """Draw gradients without a mean: ε̄₁, ‖ε̄‖² − D/n and D, with E D = 1."""
  keys = jax.random.split(key)
  noise = jax.random.normal(keys[0], (RUNS, WORKERS, DIMS)) / np.sqrt(DIMS)
  noise = noise * draw_scale(kind, keys[1], (RUNS, WORKERS, 1))
  mean = noise.mean(1)
  variance = jnp.sum((noise - mean[:, None])**2, (1, 2)) / (WORKERS - 1)
  return mean[:, 0], jnp.sum(mean**2, 1) - variance / WORKERS, variance


def course(first, last, decades, jitter):
  """Lay out exact G [STEPS, RUNS] and S: B_simple goes from first to last.

  S falls by some decades, fast at first; the logarithm of G moves about its
  course from step to step, as the noise of SGD moves the parameters.
  """
  root = np.sqrt(np.arange(STEPS) / STEPS)[:, None]
  variance = np.tile(10.**(-decades * root), RUNS)
  rng = np.random.default_rng(0)
  drift = np.zeros((STEPS, RUNS))
  for t in range(1, STEPS):
    drift[t] = .8 * drift[t - 1] + .6 * rng.normal(size=RUNS)
  signal = variance / (first * (last / first)**root) * np.exp(
    jitter * drift - jitter**2 / 2)
  return np.float32(signal), np.float32(variance)


@functools.partial(jax.jit, static_argnames='kind')
def follow(signal, variance, kind):
  """Track all runs; return Known and its truth [STEPS, RUNS]."""
  update, read = jax.vmap(windows.update), jax.vmap(windows.read)

  def step(carry, at):
    state, truths = carry
    key, g, s = at
    along, square, spread = draw(kind, key)
    sample = Estimate(
      g + 2 * jnp.sqrt(g * s) * along + s * square, s * spread)
    new = update(state, sample)
    exact = jnp.stack([g, g + s]) / jax.vmap(windows.scale)(state)[None]
    truths = jnp.where(jnp.isnan(exact[..., None]), 0., truths)  # first step
    truths = truths * windows._DECAY[None, None] + jnp.nan_to_num(
      exact)[..., None]
    truth = truths[0] / truths[1]
    known = read(new)
    return (new, truths), (known, jnp.take_along_axis(
      truth, known.place[:, None], 1)[:, 0])

  keys = jax.random.split(jax.random.key(1), STEPS)
  state = jax.tree.map(
    lambda x: jnp.zeros((RUNS, *x.shape), x.dtype), windows.init())
  zeros = jnp.zeros((2, RUNS, len(windows.LENGTHS)))
  return jax.lax.scan(step, (state, zeros), (keys, signal, variance))[1]


def shares(kind, *numbers):
  """Summarize a simulation by shares of its looks."""
  known, truth = jax.tree.map(
    np.asarray, follow(*course(*numbers), kind))
  look = lambda x: x[LOOKS]
  is_known = look(known.window > 0)
  covers = look((known.least <= truth) & (truth <= known.most))
  holds = look(known.batch_size_at_least * truth <= 1 + 1e-5)
  return {
    'known': is_known.mean(), 'covers': covers[is_known].mean(),
    'wrong': (is_known & ~covers).mean(), 'holds': holds.mean(),
    'holds_unknown': holds[~is_known].mean(), **predictions(known)}


def predictions(known):
  """Compare the predicted step of first knowing with the one that it took."""
  took = np.argmax(known.window > 0, 0) + 1.
  at = np.arange(1, STEPS + 1)[:, None]
  predicted = at + known.steps_until_known
  valid = ((at < took) & (known.window > 0).any(0) & (at >= 20)
           & np.isfinite(predicted))
  ratio = (predicted / took)[valid]
  return {'median': np.median(ratio),
          'within': np.mean((ratio > .5) & (ratio < 2))}


class SimulationTest(parameterized.TestCase):

  @parameterized.product(
    kind=('gauss', 't3', 'lognormal'),
    numbers=((30, 2000, 4, .5), (20, 300, 4, 0.), (5, 60, 4, .5)))
  @pytest.mark.slow
  def test_knows_what_it_says(self, kind, numbers):
    """Of 300 runs and 81 looks each; the standard error is about 0.4 %."""
    found = shares(kind, *numbers)
    # In whole percent, 93 to 97.
    self.assertBetween(found['covers'], .925, .975, found)
    self.assertGreater(found['holds'], .94, found)
    self.assertGreater(found['holds_unknown'], .94, found)
    self.assertBetween(found['median'], .5, 2, found)
    self.assertGreater(found['within'], .55, found)

  @pytest.mark.slow
  def test_where_hardly_any_window_knows(self):
    """B_simple is 300, for good: few know, and these by chance too early."""
    found = shares('gauss', 300, 300, 0, 0)
    self.assertLess(found['known'], .1)
    self.assertLess(found['wrong'], .02)
    self.assertGreater(found['holds'], .94)


def run_through(g, s):
  """Add steps one by one."""
  def step(state, sample):
    return windows.update(state, sample), None
  sample = Estimate(jnp.float32(g), jnp.float32(s))
  return jax.jit(lambda x: jax.lax.scan(step, windows.init(), x)[0])(sample)


class SumsTest(parameterized.TestCase):

  @parameterized.parameters(5, 40, 400)
  def test_means_and_their_covariance(self, steps):
    """Against weights written out; over scales of many magnitudes."""
    rng = np.random.default_rng(0)
    fall = 10.**(-np.arange(steps) / 50)
    g, s = fall * rng.normal(.5, 1, steps), fall * rng.gamma(9, 1, steps)
    found, count, freedom = windows._means(run_through(g, s))
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

  def test_the_unit_does_not_matter(self):
    rng = np.random.default_rng(1)
    g, s = rng.normal(1, 1, 60), rng.gamma(9, 1, 60)
    one, *others = (windows.read(run_through(u * g, u * s))
                    for u in (1, 2.**66, 2.**-66))
    for other in others:
      np.testing.assert_allclose(other, one, 1e-5)

  def test_gradients_without_noise_or_without_anything(self):
    same = windows.read(run_through(np.ones(40), np.zeros(40)))
    self.assertEqual((same.fraction, same.least, same.most), (1, 1, 1))
    self.assertGreater(int(same.window), 0)
    nothing = windows.read(run_through(np.zeros(40), np.zeros(40)))
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
    known = windows.read(state)
    self.assertGreater(int(known.window), 0)
    self.assertBetween(1 / float(known.fraction), 8, 12)


class ChoiceTest(parameterized.TestCase):

  def test_the_shortest_window_that_knows(self):
    """The noise asks for some 4·39 steps; the width is a factor of two."""
    rng = np.random.default_rng(3)
    draws = rng.normal(1, 2, 4000), rng.gamma(99, 1, 4000)
    known = windows.read(run_through(*draws))
    at = windows.LENGTHS.index(int(known.window))
    self.assertLessEqual(float(known.most), 2 * float(known.least))
    self.assertBetween(float(known.fraction), float(known.least),
                       float(known.most))
    self.assertGreater(at, 0)
    self.assertLess(at, len(windows.LENGTHS) - 1)
    self.assertLess(1 / float(known.most), float(known.batch_size_at_least))

  @pytest.mark.slow
  def test_predicts_how_long_it_takes(self):
    """(1.91 + 2·2.17)² = 39 times 16 steps, for G = 1 ± 4 without chance."""
    def first(n):
      at = np.arange(n)
      return windows.read(run_through(1 + 4 * (-1.)**at, np.full(n, 99.)))
    self.assertTrue(np.isnan(first(3).steps_until_known))
    for seen in (101, 401, 601):
      self.assertBetween(float(first(seen).steps_until_known) + seen, 600, 680)
    self.assertEqual(int(first(601).window), 0)
    self.assertEqual(float(first(681).steps_until_known), 0)
    self.assertGreater(int(first(681).window), 0)

  def test_what_no_window_will_know(self):
    rng = np.random.default_rng(5)
    known = windows.read(run_through(
      rng.normal(1, 30, 20000), rng.gamma(99, 1, 20000)))
    self.assertEqual(int(known.window), 0)
    self.assertEqual(float(known.steps_until_known), np.inf)
    self.assertGreater(float(known.batch_size_at_least), 20)


if __name__ == '__main__':
  absltest.main()
