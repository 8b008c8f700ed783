"""What Zhang et al. 2021 derive, in closed form: measures, and smoothing."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized

import gradiv
from experiments.decentralized import measures, optimizers
from gradiv.decentralized import topology
from tests import helpers

RNG = np.random.default_rng(5)


def spread_out(loss, center, offsets):
  """Measure workers at center + offsets [trials, n], each by its gradient."""
  g = jax.grad(loss)

  def one(w):
    return measures.measure(
      measures.Sample(g(w), None, 0), w, gradient=lambda w, _: g(w),
      reference=lambda w, _: g(w), rate=1., axis_name='workers')

  return jax.vmap(jax.vmap(one, axis_name='workers', out_axes=None))(
    center + jnp.asarray(offsets))


@pytest.mark.slow
class EffectiveRateTest(parameterized.TestCase):

  @parameterized.parameters((1., 0.5), (3., 0.3), (2., 1.))
  def test_on_a_cosine(self, k, s):
    """L = −cos kw, w_j ~ N(w_a, s²): α_e/α = exp(−k²s²/2) on average."""
    offsets = RNG.normal(scale=s, size=(100, 4096)).astype('f')
    offsets -= offsets.mean(1, keepdims=True)
    seen = spread_out(lambda w: -jnp.cos(k * w), 0.7 / k, offsets)
    # Without the mean, offsets have the variance s²(1 − 1/n).
    helpers.assert_mean(
      seen.ratio, math.exp(-(k * s)**2 / 2 * (1 - 1 / 4096)))
    np.testing.assert_allclose(seen.spread, offsets.var(1), 1e-4)

  def test_on_a_quartic(self):
    """L = w⁴/4: g_a = w_a³ + 3 w_a Var + m_3, which raises the rate."""
    offsets = RNG.gamma(1., size=(20, 8)).astype('f')
    offsets -= offsets.mean(1, keepdims=True)
    seen = spread_out(lambda w: w**4 / 4, 1.5, offsets)
    x = offsets.astype(float)
    np.testing.assert_allclose(
      seen.ratio,
      1 + 3 * (x**2).mean(1) / 1.5**2 + (x**3).mean(1) / 1.5**3, 1e-4)

  def test_against_numpy(self):
    """Every measure, on batches that differ and a loss of two layers."""
    n, b, rate = 4, 6, 0.3
    data = RNG.normal(size=(n, b, 3)).astype('f')
    own = RNG.normal(size=(n, 3, 2)).astype('f')
    grad = jax.grad(lambda w, x: jnp.mean(jnp.tanh(x @ w).sum(-1)**2))
    everything = data.reshape(-1, 3)[::2]
    seen = jax.vmap(
      lambda w, x: measures.measure(
        measures.Sample(grad(w, x), x, 0), w, gradient=grad,
        reference=lambda w, _: grad(w, everything), rate=rate,
        axis_name='workers'), axis_name='workers', out_axes=None)(own, data)
    center = own.mean(0)
    flat = lambda x: np.asarray(x, float).ravel()
    g = flat(grad(center, everything))
    g_a = np.mean([flat(grad(w, x)) for w, x in zip(own, data)], 0)
    g_s = np.mean([flat(grad(center, x)) for x in data], 0)
    cut = lambda x: rate**2 * np.sum((x - x @ g / (g @ g) * g)**2)
    helpers.assert_close(seen, measures.Measures(
      ratio=g_a @ g / (g @ g), across=cut(g_a), across_batch=cut(g_s - g),
      across_spread=cut(g_a - g_s),
      spread=np.mean([np.sum((w - center)**2) for w in own])), 1e-4)
    # α_e² = (α² ‖g_a‖² − Δ)/‖g‖², by Pythagoras.
    np.testing.assert_allclose(
      (rate * seen.ratio)**2,
      (rate**2 * g_a @ g_a - seen.across) / (g @ g), 1e-4)


class RecorderTest(absltest.TestCase):

  def test_looks_every_few_steps_and_keeps_the_newest(self):
    def measure(sample, params):
      del params
      return measures.Measures(*(sample.gradient * k for k in range(1, 6)))

    tx = measures.record(measures.take_gradient(optax.sgd(0.5)), measure,
                         every=2, slots=3)

    def step(state, t):
      sample = measures.Sample(jnp.float32(t), None, t)
      updates, state = tx.update(sample, state, jnp.zeros(()))
      return state, updates

    state, moves = jax.lax.scan(step, tx.init(jnp.zeros(())), jnp.arange(9))
    np.testing.assert_allclose(moves, -np.arange(9) / 2)
    np.testing.assert_array_equal(state.series.ratio, [6, 8, 4])
    np.testing.assert_array_equal(measures.read(state)['spread'],
                                  [30, 40, 20])

  def test_backends_agree(self):
    """Looks under a condition, and mixing by turns, with collectives."""
    bank = topology.random_matching(4, 3)
    grad = jax.grad(lambda w, x: jnp.sum((jnp.tanh(w) - x)**2))
    tx = measures.record(
      measures.take_gradient(optax.chain(
        optax.sgd(0.3), optimizers.mix_in_turn(bank, 'workers'))),
      functools.partial(measures.measure, gradient=grad, rate=0.3,
                        reference=lambda w, _: grad(w, jnp.zeros(3)),
                        axis_name='workers'), every=2, slots=3)

    def run(x):
      def step(carry, t):
        w, state = carry
        updates, state = tx.update(
          measures.Sample(grad(w, x), x, t), state, w)
        return (optax.apply_updates(w, updates), state), None
      start = jnp.ones(3)
      return jax.lax.scan(step, (start, tx.init(start)), jnp.arange(6))[0]

    x = RNG.normal(size=(4, 3)).astype('f')
    mapped = {backend: gradiv.map_workers(run, 'workers', backend=backend)(x)
              for backend in ('vmap', 'pmap', 'shard_map')}
    w = np.ones((4, 3))
    for t in range(6):
      w = bank[t % 3] @ w - 0.3 * 2 * (np.tanh(w) - x) / np.cosh(w)**2
    for found in mapped.values():
      np.testing.assert_allclose(found[0], w, 1e-4)
      helpers.assert_close(found, mapped['vmap'], 1e-5, 1e-6)


@pytest.mark.slow
class QuadraticTest(parameterized.TestCase):

  @parameterized.parameters('random', 'ring', 'complete')
  def test_the_mean_goes_as_under_ssgd(self, name):
    """One Hessian for all, one noise: then disagreement changes nothing."""
    n, d, steps, rate = 5, 4, 60, 0.1
    w = {'random': topology.random_matching(n, 7), 'ring': topology.ring(n),
         'complete': topology.complete(n)}[name]
    root = RNG.normal(size=(d, d))
    hessian, aims = root @ root.T, RNG.normal(size=(n, d))
    hessian *= 5 / np.linalg.norm(hessian, 2)  # stable: rate · 5 < 1 + λ_min
    noise = RNG.normal(size=(n, steps, d))
    jax.config.update('jax_enable_x64', True)
    self.addCleanup(jax.config.update, 'jax_enable_x64', False)

    @functools.partial(gradiv.map_workers, axis_name='workers')
    def path(noise, aim):
      def train(tx):
        def step(carry, noise):
          x, state = carry
          g = jnp.asarray(hessian) @ (x - aim) + noise
          updates, state = tx.update(g, state, x)
          x = optax.apply_updates(x, updates)
          return (x, state), x
        start = jnp.ones(d)
        return jax.lax.scan(step, (start, tx.init(start)), noise)[1]

      return (train(optax.chain(gradiv.aggregate_by_mean('workers'),
                                optax.sgd(rate))),
              train(optax.chain(optax.sgd(rate), gradiv.mix_by_gossip(
                w, 'workers', order='awc'))))

    common, own = map(np.asarray, path(noise, aims))
    np.testing.assert_allclose(own.mean(0), common.mean(0), 0, 1e-12)
    self.assertGreater(own.std(0).min(), 1e-3)  # the workers do disagree


class CompleteMixingTest(parameterized.TestCase):
  """All average with all, each with a gradient of its own: the paper's Fig. 2.

  Then δw_j = −α (g_j − g_a): one step of gradients apart, and no more.
  """

  def train(self, n, rate, noise):
    """Train on w²/2 with noisy gradients [n, steps, lanes]; return w."""
    tx = optax.chain(optax.sgd(rate), gradiv.mix_by_gossip(
      topology.complete(n), 'workers', order='awc'))

    def run(noise):
      def step(carry, noise):
        w, state = carry
        g = w + noise
        updates, state = tx.update(g, state, w)
        w = optax.apply_updates(w, updates)
        return (w, state), (w, g)
      start = jnp.zeros(noise.shape[1:])
      return jax.lax.scan(step, (start, tx.init(start)), noise)[1]

    return map(np.asarray, gradiv.map_workers(run, 'workers')(noise))

  def test_disagreement_is_a_step_of_gradient_differences(self):
    w, g = self.train(4, 0.7, RNG.normal(size=(4, 20, 5)).astype('f'))
    apart = lambda x: x - x.mean(0)
    np.testing.assert_allclose(apart(w), -0.7 * apart(g), 1e-4, 1e-6)

  @parameterized.parameters((5, 0.4), (3, 0.9))
  def test_variance_on_a_quadratic(self, n, rate):
    """((n − 1)/n) α² s²/(1 − (αh)²), with h = s = 1."""
    w, _ = self.train(n, rate, RNG.normal(size=(n, 60, 4000)).astype('f'))
    helpers.assert_mean(
      w[:, -1].var(0), (n - 1) / n * rate**2 / (1 - rate**2))

  @parameterized.parameters((0.95, True), (1.05, False))
  def test_stable_up_to_half_the_rate_of_ssgd(self, rate, stable):
    """Below αh = 1 the start is forgotten; above, though SSGD bears αh < 2."""
    noise = np.zeros((4, 200, 1), 'f')
    noise[:, 0, 0] = 1, -1, 2, 0  # makes the workers differ once
    w, _ = self.train(4, rate, noise)
    spread = w.var(0)[:, 0]
    self.assertEqual(spread[-1] < spread[0], stable)
    # The mean moves as under SSGD, and converges at both rates.
    self.assertLess(abs(w.mean(0)[-1, 0]), 1e-3 * abs(w.mean(0)[0, 0]))


class SmoothingTest(parameterized.TestCase):
  """N(0, σ²) smooths G|x|: the curvature is at most √(2/π) G/σ, at 0 equal."""

  @parameterized.parameters((1., 0.5), (3., 2.))
  def test_curvature_by_quadrature(self, height, sigma):
    u = np.linspace(-9, 9, 180_001)
    density = np.exp(-u**2 / 2) / math.sqrt(2 * math.pi) * (u[1] - u[0])
    smooth = lambda x: np.sum(height * abs(x + sigma * u) * density)
    bound, h = math.sqrt(2 / math.pi) * height / sigma, 0.01 * sigma
    places = sigma * np.linspace(-3, 3, 25)
    curvature = np.array([
      (smooth(x + h) - 2 * smooth(x) + smooth(x - h)) / h**2 for x in places])
    self.assertLessEqual(curvature.max(), bound * (1 + 1e-6))
    self.assertGreater(curvature[12], bound * (1 - 1e-4))  # at 0
    np.testing.assert_allclose(
      curvature, bound * np.exp(-(places / sigma)**2 / 2), 1e-3, 1e-5)

  def test_workers_see_the_smooth_gradient(self):
    """The mean of their gradients of G|w|, about a mean h: G erf(h/σ√2)."""
    height, sigma, h = 2., 0.5, 0.1
    offsets = RNG.normal(scale=sigma, size=(400, 512)).astype('f')
    mean = jax.vmap(jax.vmap(lambda dw: jax.lax.pmean(jax.grad(
      lambda w: height * jnp.abs(w))(h + dw), 'workers'),
      axis_name='workers', out_axes=None))(offsets)
    helpers.assert_mean(mean, height * math.erf(h / sigma / math.sqrt(2)))


if __name__ == '__main__':
  absltest.main()
