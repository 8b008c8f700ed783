"""The laws of batches and delays: P2-16 to P2-18 of critical parameters."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import gradiv
from experiments.critical_parameters import theory
from gradiv import scaling


class CriticalTest(parameterized.TestCase):

  def test_is_the_noise_scale_at_the_accuracy(self):
    noise, sq_norm = scaling.NoiseModel(3., 0.5), 0.02
    scale = gradiv.noise_scale(gradiv.Estimate(
      jnp.float32(sq_norm), jnp.float32(3 * sq_norm + 0.5)))
    found = gradiv.critical_batch_size(noise, sq_norm=sq_norm)
    self.assertAlmostEqual(found, 28)
    np.testing.assert_allclose(scale, found, 1e-6)
    self.assertAlmostEqual(
      gradiv.critical_delay(noise, sq_norm=sq_norm), found)

  def test_what_is_under_way_counts(self):
    """b (τ + 1) shares what is free; steps double at one more of delay."""
    noise, sq_norm = scaling.NoiseModel(3., 0.5), 0.02
    total = 3 + 0.5 / sq_norm
    steps = lambda b, tau: tau + 1 + total / b
    for tau in (0, 1, 6):
      b = gradiv.critical_batch_size(noise, sq_norm=sq_norm, staleness=tau)
      self.assertAlmostEqual(b * (tau + 1), total)
      # Half of the examples are a waste.
      self.assertAlmostEqual(b * steps(b, tau), 2 * total)
    for b in (1, 4):
      tau = gradiv.critical_delay(noise, sq_norm=sq_norm, batch_size=b)
      self.assertAlmostEqual(steps(b, tau + 1) / steps(b, 0), 2, 0)
      self.assertAlmostEqual(steps(b, tau + 1), 2 * steps(b, 0))

  def test_p2_17_the_hyperbola_of_steps_and_examples(self):
    critical = 40.
    batch = np.array([1., 7., 40., 1000.])
    steps = 3. * (1 + critical / batch)
    examples = batch * steps
    np.testing.assert_allclose(
      (steps / 3 - 1) * (examples / (3 * critical) - 1), 1)
    np.testing.assert_allclose(
      scaling.samples_factor(steps / 3), examples / (3 * critical))
    np.testing.assert_allclose(
      scaling.speed_up(batch, critical), steps[0] / steps)
    np.testing.assert_allclose(
      scaling.parallel_efficiency(batch, critical), examples[0] / examples)
    self.assertAlmostEqual(
      scaling.parallel_efficiency(critical, critical), 0.5125)
    self.assertLess(scaling.speed_up(1e9, critical), 1 + critical)
    np.testing.assert_allclose(
      gradiv.steps_factor(gradiv.Estimate(1., critical), 8.),
      1 + critical / 8)

  def test_traced(self):
    found = jax.jit(lambda m: gradiv.critical_batch_size(
      scaling.NoiseModel(m, 1.), sq_norm=0.5))(jnp.float32(3))
    self.assertEqual(float(found), 5)
    found = jax.jit(scaling.samples_factor)(jnp.float32(2))
    self.assertEqual(float(found), 2)


class RatesTest(parameterized.TestCase):

  @parameterized.parameters((0., 2.), (3., 12.), (1e-20, 1e20), (2., 0.))
  def test_p2_16_adascale_is_the_rule_of_m(self, sq_norm, variance):
    estimate = gradiv.Estimate(jnp.float32(sq_norm), jnp.float32(variance))
    for b, scale in ((1, 8), (4, 3)):
      gain = float(
        gradiv.adascale_gain(estimate, batch_size=b, scale=scale))
      online = scaling.online_rate(
        0.5, estimate, reference_batch_size=b, batch_size=scale * b)
      np.testing.assert_allclose(online, 0.5 * gain, 1e-6)
      if sq_norm:
        m = variance / sq_norm
        np.testing.assert_allclose(
          scaling.rate_factor(m, batch_sizes=(b, scale * b)), gain, 1e-6)
        # Of the best steps of isotropic least squares, too.
        best = lambda b: b / (b + m)
        np.testing.assert_allclose(best(scale * b) / best(b), gain, 1e-6)

  def test_online_rate_with_delay(self):
    estimate = gradiv.Estimate(jnp.float32(2.), jnp.float32(24.))
    for tau in (0, 5):
      found = jax.jit(lambda e: scaling.online_rate(
        0.1, e, reference_batch_size=2, batch_size=6, staleness=tau))(estimate)
      np.testing.assert_allclose(found, 0.1 * (1 + 6) / (tau + 1 + 2), 1e-6)
      np.testing.assert_allclose(
        found, 0.1 * scaling.rate_factor(
          12., batch_sizes=(2, 6), stalenesses=(0, tau)), 1e-6)

  def test_largest_stable_rate_on_quadratics(self):
    """c from π/2 to 2: stable with the one, and with more than the other not.
    """
    for m in (0., 1., 30.):
      for tau in (0, 1, 20):
        rate = lambda c: scaling.largest_stable_rate(
          1., noise_ratio=4 * m, batch_size=4, staleness=tau, constant=c)
        limit = theory.mean_square_limit(m, tau)
        self.assertLessEqual(rate(np.pi / 2), limit + 1e-12)
        self.assertGreaterEqual(rate(2.), limit - 1e-12)

  def test_noise_limited_rate(self):
    rate = lambda **changed: scaling.noise_limited_rate(2., **dict(
      gap=3., variance=6., num_steps=100., batch_size=4.) | changed)
    self.assertAlmostEqual(rate(), 0.1)
    self.assertAlmostEqual(rate(batch_size=16), 2 * rate())
    self.assertAlmostEqual(rate(batch_size=16, num_steps=25.), 4 * rate())


class TheoremTest(parameterized.TestCase):
  """P2-18: (1/T) Σ E‖∇f‖² ≤ 16 F₀/(3 γ T) + 4 L γ σ²/b."""

  def run_sgd(self, m, tau, stddev, rate, steps, slope, start, runs=200, d=4):
    """Mean ‖∇f‖² of each run; ξ = √M z ∇f + noise, z one number a run."""
    rng = np.random.default_rng([round(10 * m), tau, steps])
    x = np.full((runs, d), start)
    waiting, seen = [np.zeros_like(x)] * tau, np.zeros(runs)
    for _ in range(steps):
      gradient = slope(x)
      seen += np.sum(gradient**2, 1) / steps
      z = rng.normal(size=(runs, 1))
      waiting.append(gradient * (1 + np.sqrt(m) * z)
                     + stddev / np.sqrt(d) * rng.normal(size=x.shape))
      x = x - rate * waiting.pop(0)
    return seen

  @parameterized.product(
    function=('waves', 'square'), m=(0., 1., 10.), tau=(0, 3, 20))
  def test_p2_18_the_bound_is_never_violated(self, function, m, tau):
    """On a function that is not convex too, for long and short runs."""
    slope, gap = {'waves': (np.sin, lambda x: 1 - np.cos(x)),
                  'square': (lambda x: x, lambda x: x**2 / 2)}[function]
    rate = scaling.largest_stable_rate(1., noise_ratio=m, staleness=tau)
    self.assertAlmostEqual(rate, 1 / (4 * (tau + 1 + m)))
    for stddev in (0., 1.):
      for steps in (5, 200):
        seen = self.run_sgd(m, tau, stddev, rate, steps, slope, 2.)
        error = seen.std(ddof=1) / np.sqrt(len(seen))
        bound = (16 * 4 * gap(2.) / (3 * rate * steps)
                 + 4 * rate * stddev**2)
        self.assertLess(seen.mean() + 4 * error, bound)

  def test_p2_18_beyond_the_stable_rate_it_is(self):
    """That the test can fail: at 2.2/(τ + 1 + M), with the constant 1/4 gone.
    """
    m, tau, steps = 1., 3, 200
    rate = scaling.largest_stable_rate(
      1., noise_ratio=m, staleness=tau, constant=2.2)
    seen = self.run_sgd(m, tau, 0., rate, steps, lambda x: x, 2.)
    self.assertGreater(seen.mean(), 16 * 4 * 2. / (3 * rate * steps))


class ArgumentsTest(parameterized.TestCase):
  noise = scaling.NoiseModel(1., 1.)

  @parameterized.parameters(
    (lambda: gradiv.critical_batch_size(
      scaling.NoiseModel(-1.), sq_norm=1.), 'noise.relative=-1.0'),
    (lambda: gradiv.critical_delay(
      scaling.NoiseModel(1., -1.), sq_norm=1.), 'noise.absolute=-1.0'),
    (lambda: gradiv.critical_delay(
      scaling.NoiseModel(1.), sq_norm=0.), 'sq_norm=0.0'),
    (lambda: gradiv.critical_batch_size(
      scaling.NoiseModel(1.), sq_norm=1., staleness=-1), 'staleness=-1'),
    (lambda: gradiv.critical_delay(
      scaling.NoiseModel(1.), sq_norm=1., batch_size=0), 'batch_size=0'),
    (lambda: scaling.largest_stable_rate(0.), 'smoothness=0.0'),
    (lambda: scaling.largest_stable_rate(1., constant=0), 'constant=0'),
    (lambda: scaling.rate_factor(-1.), 'noise_ratio=-1.0'),
    (lambda: scaling.noise_limited_rate(
      1., gap=1., variance=0., num_steps=1), 'variance=0.0'),
    (lambda: scaling.online_rate(
      1., gradiv.Estimate(1., 1.), reference_batch_size=0, batch_size=1),
     'reference_batch_size=0'),
    (lambda: scaling.speed_up(np.array([1., 0.]), 1.), 'batch_size='),
    (lambda: scaling.parallel_efficiency(1., -1.), 'critical=-1.0'),
    (lambda: scaling.samples_factor(1.), 'steps_factor - 1=0.0'))
  def test_an_error_names_the_argument_and_its_value(self, call, message):
    with self.assertRaisesRegex(ValueError, message):
      call()


if __name__ == '__main__':
  absltest.main()
