"""The closed-form cases of gradient diversity, 1 to 9 and 11 to 15.

Those that are about a sample of gradients take one gradient a worker, on
every backend; on vmap alone in the default run, because `moments_test` compares
the backends. `estimate_test` has the cases of sampling.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv import diversity
from tests import helpers

RNG = np.random.default_rng(2)


def bound_of(grads, backend='vmap'):
  """B_S of the finite set whose gradients these are."""
  return gradiv.batch_size_bound(gradiv.estimate(
    helpers.moments_of(grads, backend), num_examples=len(grads)))


def orthogonal(n, d, norms=1.0):
  q = np.linalg.qr(RNG.normal(size=(d, d)))[0]
  return q[:n] * np.broadcast_to(norms, n)[:, None]


def hadamard(n):
  h = np.ones((1, 1))
  while len(h) < n:
    h = np.block([[h, h], [h, -h]])
  return h


class ClosedFormTest(parameterized.TestCase):
  backend = 'vmap'

  def test_01_equal_gradients(self):
    m = helpers.moments_of(np.tile([[3., 4.]], (8, 1)), self.backend)
    e = gradiv.estimate(m)
    self.assertAlmostEqual(float(gradiv.gradient_diversity(m)), 1 / 8)
    self.assertAlmostEqual(float(diversity.coherence(m)), 8)
    self.assertEqual(float(gradiv.batch_size_bound(e)), 1)
    self.assertEqual(float(gradiv.noise_scale(e)), 0)
    for scale in (1, 4, 1e6):
      self.assertEqual(
        float(gradiv.adascale_gain(e, batch_size=2, scale=scale)), 1)

  def test_02_orthogonal_gradients(self):
    grads = orthogonal(8, 20, np.arange(1., 9.))
    m = helpers.moments_of(grads, self.backend)
    np.testing.assert_allclose(gradiv.gradient_diversity(m), 1, 1e-5)
    np.testing.assert_allclose(diversity.coherence(m), 1, 1e-5)
    np.testing.assert_allclose(bound_of(grads, self.backend), 8, 1e-5)

  def test_03_groups_of_equal_gradients(self):
    grads = np.repeat(orthogonal(4, 10), 2, 0)  # n = 8, c = 2
    np.testing.assert_allclose(bound_of(grads, self.backend), 4, 1e-5)

  def test_04_gradients_that_cancel(self):
    g = RNG.normal(size=(1, 5))
    grads = np.tile(np.concatenate([g, -g]), (4, 1))
    m = helpers.moments_of(grads, self.backend)
    self.assertEqual(float(gradiv.gradient_diversity(m)), np.inf)
    self.assertEqual(float(diversity.coherence(m)), 0)
    e = gradiv.estimate(m, num_examples=8)
    np.testing.assert_allclose(
      gradiv.inverse_batch_size_bound(e), 0, atol=1e-7)
    self.assertTrue(np.isfinite(gradiv.inverse_batch_size_bound(
      gradiv.estimate(m))))

  @pytest.mark.slow
  def test_05_invariances(self):
    grads = RNG.normal(0.3, 1, size=(8, 6))
    reference = gradiv.gradient_diversity(
      helpers.moments_of(grads, self.backend))
    q = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
    for other in (1e10 * grads, 1e-10 * grads, grads @ q,
                  RNG.permutation(grads)):
      np.testing.assert_allclose(
        gradiv.gradient_diversity(helpers.moments_of(other, self.backend)),
        reference, 1e-5)
      np.testing.assert_allclose(
        bound_of(other, self.backend), bound_of(grads, self.backend), 1e-5)

  def test_06_07_replicated_set(self):
    subset = RNG.normal(0.5, 1, size=(4, 6))
    replicated = np.tile(subset, (2, 1))
    np.testing.assert_allclose(
      bound_of(replicated, self.backend), bound_of(subset, 'vmap'), 1e-5)
    np.testing.assert_allclose(
      2 * gradiv.gradient_diversity(
        helpers.moments_of(replicated, self.backend)),
      gradiv.gradient_diversity(helpers.moments_of(subset)), 1e-5)

  def test_08_generalised_linear_model(self):
    x, a = RNG.normal(size=(8, 5)), RNG.normal(size=8)
    formula = 8 * np.sum(a**2 * np.sum(x**2, 1)) / np.sum((x.T @ a)**2)
    bound = bound_of(a[:, None] * x, self.backend)
    np.testing.assert_allclose(bound, formula, 1e-4)
    least = 8 * np.min(np.sum(x**2, 1)) / np.linalg.norm(x, 2)**2
    self.assertGreaterEqual(float(bound), least)

  def test_09_least_squares_on_hadamard_columns(self):
    x = hadamard(8)[:, 1:4]
    truth, w, other = RNG.normal(size=(3, 3))
    grads = lambda w: (x @ (w - truth))[:, None] * x
    np.testing.assert_allclose(bound_of(grads(w), self.backend), 3, 1e-4)
    np.testing.assert_allclose(
      bound_of(grads(w) - grads(other), self.backend), 3, 1e-4)

  def test_11_quadratic_of_the_lower_bound(self):
    x = np.concatenate([orthogonal(4, 4), -orthogonal(4, 4)])
    x = np.concatenate([x[:4], -x[:4]])  # unit norm, sum zero
    lam, w = 0.7, 0.4 * RNG.normal(size=4)
    np.testing.assert_allclose(
      bound_of(lam * (w - x), self.backend), 1 + 1 / np.sum(w**2), 1e-4)

  @pytest.mark.slow
  def test_11_stationary_norm_and_divergence(self):
    x = jnp.concatenate([jnp.eye(4), -jnp.eye(4)])
    lam = 1.0

    def run(gamma, batch, key, steps=400):
      def step(w, key):
        i = jax.random.randint(key, (batch,), 0, 8)
        return w - gamma * lam * (batch * w - jnp.sum(x[i], 0)), jnp.sum(w**2)
      norms = jax.lax.scan(step, jnp.zeros(4), jax.random.split(key, steps))[1]
      return norms[steps // 2:].mean()

    keys = jax.random.split(jax.random.key(0), 200)
    for gamma, batch in ((0.1, 4), (0.05, 16)):
      norms = jax.vmap(lambda k: run(gamma, batch, k))(keys)
      helpers.assert_mean(norms, gamma * lam / (2 - gamma * lam * batch))
    # 24 > 2/(γλ)
    diverged = jax.vmap(lambda k: run(0.1, 24, k, steps=60))(keys)
    self.assertGreater(float(jnp.min(diverged)), 1e3)

  @parameterized.parameters(True, False)
  def test_12_13_second_moment_of_a_batch(self, replacement):
    grads, batch = RNG.normal(0.4, 1, size=(12, 5)), 5
    bound = float(bound_of(grads))
    mean_square = np.mean(np.sum(grads**2, 1))
    effective = bound if replacement else float(
      diversity.batch_size_bound_without_replacement(bound, 12))
    drawn = np.stack([RNG.choice(12, batch, replacement)
                      for _ in range(20000)])
    sums = np.sum(grads[drawn].sum(1)**2, -1)
    helpers.assert_mean(
      sums, batch * mean_square * (1 + (batch - 1) / effective))

  def test_13_the_whole_set(self):
    grads = RNG.normal(0.4, 1, size=(12, 5))
    effective = diversity.batch_size_bound_without_replacement(bound_of(grads),
      12)
    mean_square = np.mean(np.sum(grads**2, 1))
    np.testing.assert_allclose(
      12 * mean_square * (1 + 11 / effective), np.sum(grads.sum(0)**2), 1e-4)
    self.assertEqual(
      float(diversity.batch_size_bound_without_replacement(12., 12)), np.inf)

  def test_14_bound_is_one_plus_noise_scale(self):
    grads = RNG.normal(0.4, 1, size=(8, 5))
    e = gradiv.estimate(helpers.moments_of(grads, self.backend), num_examples=8)
    mean = grads.mean(0)
    np.testing.assert_allclose(e.sq_norm, mean @ mean, 1e-5)
    np.testing.assert_allclose(
      e.variance, np.mean(np.sum((grads - mean)**2, 1)), 1e-5)
    np.testing.assert_allclose(
      gradiv.batch_size_bound(e), 1 + gradiv.noise_scale(e), 1e-6)
    np.testing.assert_allclose(
      gradiv.batch_size_bound(e) * gradiv.inverse_batch_size_bound(e), 1, 1e-6)

  def test_15_best_step_of_a_quadratic(self):
    beta, batch = 2.0, 6
    grads = RNG.normal(0.5, 1, size=(8, 5))
    e = gradiv.estimate(helpers.moments_of(grads), num_examples=8)
    bound, sq_norm = float(gradiv.batch_size_bound(e)), float(e.sq_norm)
    gamma = np.linspace(0, 1, 200001)
    second = batch * sq_norm * bound * (
      1 + float(diversity.batch_penalty(e, batch)))
    decrease = gamma * batch * sq_norm - beta / 2 * gamma**2 * second
    best = np.argmax(decrease)
    np.testing.assert_allclose(
      gamma[best], 1 / (beta * (bound + batch - 1)), atol=1e-5)
    np.testing.assert_allclose(
      decrease[best],
      sq_norm / (2 * beta) / gradiv.steps_factor(e, batch), 1e-6)


@pytest.mark.slow
class PmapTest(ClosedFormTest):
  backend = 'pmap'


@pytest.mark.slow
class ShardMapTest(ClosedFormTest):
  backend = 'shard_map'


class EdgeTest(parameterized.TestCase):

  def test_one_gradient_is_unavailable(self):
    e = gradiv.estimate(helpers.moments_of([[3., 4.]]))
    for metric in (gradiv.noise_scale, gradiv.batch_size_bound,
                   gradiv.inverse_batch_size_bound):
      self.assertTrue(np.isnan(metric(e)))

  def test_all_zero_gradients_are_equal(self):
    m = helpers.moments_of(np.zeros((8, 3)))
    self.assertEqual(float(gradiv.gradient_diversity(m)), 1 / 8)
    e = gradiv.estimate(m)
    self.assertEqual(float(gradiv.batch_size_bound(e)), 1)
    self.assertEqual(float(gradiv.noise_scale(e)), 0)

  def test_inverse_never_overflows(self):
    for g, s in ((1e38, 3e38), (1e-30, 3e38), (3e38, 1e-30), (1e-37, 3e-37)):
      value = float(gradiv.inverse_batch_size_bound(gradiv.Estimate(
        jnp.float32(g), jnp.float32(s))))
      np.testing.assert_allclose(value, 1 / (1 + s / g), 1e-5, 1e-37)

  def test_negative_estimate_of_the_signal(self):
    e = gradiv.Estimate(jnp.float32(-1), jnp.float32(2))
    self.assertEqual(float(gradiv.inverse_batch_size_bound(e)), 0)
    self.assertEqual(float(gradiv.batch_size_bound(e)), np.inf)
    self.assertEqual(float(gradiv.noise_scale(e)), np.inf)

  def test_norm_test(self):
    e = gradiv.Estimate(2., 8.)
    self.assertEqual(float(gradiv.norm_test_batch_size(e, 0.5)), 16)
    np.testing.assert_array_equal(
      gradiv.norm_test_batch_size(e, np.array([.5, 1.])), [16, 4])
    for theta in (0, np.array([1., -1.])):
      with self.assertRaisesRegex(ValueError, 'theta'):
        gradiv.norm_test_batch_size(e, theta)


if __name__ == '__main__':
  absltest.main()
