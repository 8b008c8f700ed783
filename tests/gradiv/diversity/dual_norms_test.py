"""Noise scales of sign descent and Muon, against closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv import diversity
from gradiv.diversity import _polar
from tests import helpers

ROWS, COLUMNS, BATCH = 3, 4, 4
RNG = np.random.default_rng(4)
LEFT, RIGHT = RNG.normal(size=(3, 3)), RNG.normal(size=(4, 4))
# Of a quadratic ½ tr (W − X)ᵀ H (W − X) at W, whose gradient is H (W − X), with
# X of covariance (H⁻¹ L Lᵀ H⁻¹) ⊗ (Rᵀ R): that of the gradient has L Lᵀ.
MEAN = .3 * RNG.normal(size=(3, 4))


def nuclear(x):
  return np.linalg.svd(np.asarray(x, float))[1].sum()


def draw(runs, workers, batch=BATCH):
  """Draw mean gradients of `batch` examples: [runs, workers, 3, 4]."""
  noise = np.random.default_rng(5).normal(size=(runs, workers, 3, 4))
  return np.float32(MEAN + LEFT @ noise @ RIGHT / batch**.5)


def measured(grads, norm, batch=BATCH):
  one = lambda g: gradiv.worker_dual_norms(
    g, 'workers', norm=norm, batch_size=batch)
  return diversity.DualNorms(*(np.asarray(x, float) for x in jax.jit(jax.vmap(
    jax.vmap(one, axis_name='workers', out_axes=None)))(grads)))


# Σ of each coordinate, and C over the shorter side.
STDDEV = np.sqrt(np.outer(np.sum(LEFT**2, 1), np.sum(RIGHT**2, 0)))
NOISE = {'sign': STDDEV.sum(), 'spectral': np.sqrt(np.linalg.eigvalsh(
  LEFT @ LEFT.T * np.sum(RIGHT**2))).sum()}
SIGNAL = {'sign': np.abs(MEAN).sum(), 'spectral': nuclear(MEAN)}


class ClosedFormTest(parameterized.TestCase):

  @parameterized.product(norm=('sign', 'spectral'), workers=(4, 8))
  @pytest.mark.slow
  def test_noise(self, norm, workers):
    found = measured(draw(3000, workers), norm)
    helpers.assert_mean(found.noise, NOISE[norm])

  @parameterized.parameters('sign', 'spectral')
  @pytest.mark.slow
  def test_noise_scale_of_large_batches(self, norm):
    """As the signal is then known, both ends are the closed form."""
    batch = 10**8
    found = measured(draw(1000, 8, batch), norm, batch)
    exact = NOISE[norm] / SIGNAL[norm]
    helpers.assert_mean(found.noise / SIGNAL[norm], exact)
    for end in diversity.DualNorms(*map(np.mean, found)).noise_scale():
      np.testing.assert_allclose(end, exact**2, .03)

  @pytest.mark.slow
  def test_plain_roots_are_too_small(self):
    """By the factor c for signs; and by the second order for matrices."""
    grads = draw(3000, 4).astype(float)
    gaps = grads - grads.mean(1, keepdims=True)
    roots = np.sqrt(np.sum(gaps**2, 1) / 3 * BATCH).sum((1, 2))
    c = math.sqrt(2 / 3) * math.gamma(2) / math.gamma(1.5)
    helpers.assert_mean(roots, c * NOISE['sign'])
    # White noise: 21 independent columns for n = 8.
    white = np.random.default_rng(0).normal(size=(20000, 21, 3))
    cov = np.einsum('rki,rkj->rij', white, white) / 21
    plain = np.sqrt(np.maximum(np.linalg.eigvalsh(cov), 0)).sum(1)
    second = -(3 * 3 + 3) / 2 / (4 * 21)
    np.testing.assert_allclose(plain.mean() - 3, second, .1)

  def test_signal_of_sign_descent_is_bracketed(self):
    """Both ends have closed forms for Gaussian gradients."""
    workers = 4
    found = measured(draw(3000, workers), 'sign')
    at = lambda examples: MEAN * examples**.5 / STDDEV / 2**.5
    erf = np.vectorize(math.erf)
    z = at(workers * BATCH)
    most = STDDEV / (workers * BATCH)**.5 * math.sqrt(2 / math.pi) * np.exp(
      -z**2) + MEAN * erf(z)
    helpers.assert_mean(found.most, most.sum())
    helpers.assert_mean(
      found.least, np.sum(MEAN * erf(at((workers - 1) * BATCH))))
    self.assertBetween(SIGNAL['sign'], found.least.mean(), found.most.mean())

  @pytest.mark.slow
  def test_signal_of_muon_is_bracketed(self):
    previous = np.inf
    for batch in (4, 64, 4096):
      found = measured(draw(500, 4, batch), 'spectral', batch)
      least, most = found.least.mean(), found.most.mean()
      self.assertBetween(SIGNAL['spectral'], least, most)
      self.assertLess(most - least, previous / 2)
      previous = most - least

  @pytest.mark.slow
  def test_the_plug_in_of_pure_noise_follows_the_batch(self):
    """The noise scale is infinite, and the plug-in says πB/2."""
    examples = 8 * BATCH
    grads = (draw(3000, 8) - MEAN).astype('f')
    found = diversity.DualNorms(*map(np.mean, measured(grads, 'sign')))
    plug_in, bound = found.noise_scale()
    np.testing.assert_allclose(plug_in, math.pi * examples / 2, .05)
    self.assertGreater(bound, 100 * examples)

  @pytest.mark.slow
  def test_case_40_in_one_dimension_all_norms_are_equal(self):
    grads = RNG.normal(2, 1, (8, 1, 1)).astype('f')
    sign, spectral = (measured(grads[None], norm) for norm in (
      'sign', 'spectral'))
    np.testing.assert_allclose(sign.most, spectral.most, 1e-4)
    np.testing.assert_allclose(sign.least, spectral.least, 1e-4)
    e = gradiv.estimate(helpers.moments_of(grads, batch_size=BATCH))
    # Up to how each takes off the bias of a root.
    for x in (sign, spectral):
      np.testing.assert_allclose(x.noise**2, e.variance, .08)


class WorkersTest(parameterized.TestCase):

  @parameterized.product(
    norm=('sign', 'muon'), backend=gradiv.workers.BACKENDS)
  @pytest.mark.slow
  def test_are_the_same_on_every_backend(self, norm, backend):
    grads = {'a': RNG.normal(size=(8, 2, 3, 4)).astype('f'),
             'b': RNG.normal(size=(8, 5, 2)).astype('f')}
    found = helpers.on_workers(lambda g, _: gradiv.worker_dual_norms(
      g, 'workers', norm=norm), grads, backend=backend)
    split = [{'x': grads['a'][:, 0]}, {'x': grads['a'][:, 1]},
             {'x': grads['b']}]
    parts = [helpers.on_workers(lambda g, _: gradiv.worker_dual_norms(
      g, 'workers', norm=norm), part) for part in split]
    # Norms of leaves, and of matrices along leading axes, add up.
    helpers.assert_close(found, jax.tree.map(lambda *x: sum(x), *parts), 1e-4)

  @pytest.mark.slow
  def test_what_is_not_finite_shows(self):
    grads = np.ones((4, 2, 2), 'f')
    grads[1, 0, 0] = np.nan
    for norm in ('sign', 'spectral', 'muon'):
      found = measured(grads[None], norm)
      self.assertFalse(np.any(np.isfinite(found)))

  def test_wrong_arguments_are_refused(self):
    run = lambda g, **kw: helpers.on_workers(
      lambda g, _: gradiv.worker_dual_norms(g, 'workers', **kw), g)
    with self.assertRaisesRegex(ValueError, 'norm='):
      run(np.ones((4, 2)), norm='l2')
    with self.assertRaisesRegex(ValueError, "'b'.*must be a matrix"):
      run({'b': np.ones((4, 2), 'f')}, norm='muon')
    with self.assertRaisesRegex(ValueError, 'two workers'):
      run(np.ones((1, 2), 'f'), norm='sign')
    with self.assertRaisesRegex(ValueError, 'batch_size'):
      run(np.ones((4, 2), 'f'), norm='sign', batch_size=0)


class PolarTest(parameterized.TestCase):

  @parameterized.parameters((3, 5), (5, 3), (4, 4), (1, 6))
  @pytest.mark.slow
  def test_inner_product_is_the_nuclear_norm(self, rows, columns):
    x = RNG.normal(size=(rows, columns)).astype('f')
    if rows == columns:  # singular values from 1 down to 1e-3, and a zero
      u, _, v = np.linalg.svd(x)
      x = np.float32(u * [1, .1, 1e-3, 0] @ v)
    np.testing.assert_allclose(
      np.sum(x * _polar.exact(x)), nuclear(x), 1e-5)
    self.assertEqual(float(jnp.sum(_polar.exact(0 * x))), 0)

  @pytest.mark.slow
  def test_that_of_muon_is_what_muon_takes(self):
    """Up to the sign and the scale, which depends on the shape alone."""
    x = RNG.normal(size=(5, 5)).astype('f')
    tx = optax.contrib.muon(
      1., beta=0., nesterov=False, weight_decay=0.)
    update, _ = tx.update(x, tx.init(x), x)
    own = np.asarray(_polar.muon(x))
    scale = np.linalg.norm(update) / np.linalg.norm(own)
    np.testing.assert_allclose(-np.asarray(update) / scale, own, 1e-3, 1e-3)
    values = np.linalg.svd(own)[1]
    self.assertBetween(values.min(), .68, 1.21)
    self.assertBetween(values.max(), .68, 1.21)


if __name__ == '__main__':
  absltest.main()
