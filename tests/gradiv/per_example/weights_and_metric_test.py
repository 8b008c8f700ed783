"""Weights of examples and diagonal metrics, against ``vmap(grad)``."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv.per_example._engine import costs
from tests import helpers
from tests.gradiv.per_example import reference

RNG = np.random.default_rng(9)
N = 8
PARAMS = jax.tree.map(np.float32, {
  'embedding': RNG.normal(size=(11, 6)), 'kernel': RNG.normal(size=(6, 7)),
  'layers': RNG.normal(size=(2, 7, 7)) / 3, 'bias': RNG.normal(size=7),
  'unembedding': RNG.normal(size=(11, 7))})
# Out of range, tokens have a row of zeros.
BATCH = {'tokens': RNG.integers(-1, 12, (N, 5)),
         'label': RNG.integers(0, 11, N)}
WEIGHTS = np.float32([1, 2, 0, 3, .5, 1, 4, 2])
METRIC = jax.tree.map(
  lambda x: np.float32(RNG.uniform(.1, 2, x.shape)), PARAMS)


def loss_fn(params, example):
  """Products at one position and at several, in a scan, and common terms."""
  tokens = example['tokens']
  rows = params['embedding'].at[tokens].get(mode='fill', fill_value=0)
  hidden = jnp.tanh(rows @ params['kernel'] + params['bias'][None, :])
  layer = lambda x, w: (jnp.tanh(x @ w), None)
  hidden, _ = jax.lax.scan(layer, hidden, params['layers'])
  logits = params['unembedding'] @ hidden.mean(0)
  decay = .05 * (jnp.sum(params['kernel']**2)
                 + jnp.sum(params['embedding']**2))
  return jax.nn.logsumexp(logits) - logits[example['label']] + decay


@functools.cache
def gradients():
  """Gradients of the examples in float64, [n, D], and their losses."""
  losses, grads = jax.vmap(jax.value_and_grad(loss_fn), (None, 0))(
    PARAMS, BATCH)
  return np.asarray(losses, float), flat(grads)


def flat(tree):
  rows = [np.asarray(x, float).reshape(N, -1) for x in jax.tree.leaves(tree)]
  return np.concatenate(rows, 1)


def expected(weights=None, metric=None):
  """Loss, gradient [D] and moments, by their definition."""
  losses, g = gradients()
  w = np.ones(N) if weights is None else weights.astype(float)
  d = 1. if metric is None else np.concatenate(
    [np.ravel(x) for x in jax.tree.leaves(metric)])
  mean, num = w @ g / w.sum(), np.sum(w > 0)
  return w @ losses / w.sum(), mean, gradiv.Moments(
    num, w.sum() / num, np.sum(d * mean**2),
    w @ np.sum(d * (g - mean)**2, 1) / w.sum())


def check(results, weights=None, metric=None, tolerance=2e-5):
  loss, grads, moments = results
  of_loss, of_mean, of_moments = expected(weights, metric)
  np.testing.assert_allclose(loss, of_loss, 1e-5)
  mean = np.concatenate([np.ravel(x) for x in jax.tree.leaves(grads)])
  np.testing.assert_allclose(mean, of_mean, 1e-4, 1e-6)
  helpers.assert_close(moments, of_moments, tolerance)


class EngineTest(parameterized.TestCase):

  @parameterized.product(way=('gram', 'direct'), weighted=(False, True))
  @pytest.mark.slow
  def test_equals_the_definition(self, way, weighted):
    """From one position, from one-hot rows, and written out."""
    weights = WEIGHTS if weighted else None
    fn = gradiv.example_moments(loss_fn)
    pick = lambda ways: next((x for x in ways if x.name == way), ways[0])
    with (mock.patch.object(costs, 'best', pick),
          mock.patch.object(costs, 'WHOLE', 0)):
      check(reference.quick_jit(lambda w: fn(
        PARAMS, BATCH, weights=w, metric=METRIC))(weights), weights, METRIC)

  @pytest.mark.slow
  def test_microbatches_groups_and_a_mask(self):
    mask = np.array([1, 1, 1, 0, 1, 0, 1, 1], bool)
    padded = np.where(mask, WEIGHTS, np.nan)
    fn = gradiv.example_moments(
      loss_fn, microbatch_size=2, groups=gradiv.by_layer)
    loss, grads, moments = reference.quick_jit(lambda m, w: fn(
      PARAMS, BATCH, mask=m, weights=w, metric=METRIC))(mask, padded)
    whole = gradiv.Moments(*(x[0] for x in moments[:2]),
                           *(jnp.sum(x) for x in moments[2:]))
    check((loss, grads, whole), np.where(mask, WEIGHTS, 0), METRIC, 1e-4)

  @pytest.mark.slow
  def test_over_workers(self):
    fn = gradiv.example_moments(loss_fn, axis_name='workers')
    rows = jax.tree.map(lambda x: x.reshape(4, 2, *x.shape[1:]),
                        (BATCH, WEIGHTS))
    check(helpers.on_workers(
      lambda own, common: fn(*common[:1], own[0], weights=own[1],
                             metric=common[1]),
      rows, (PARAMS, METRIC), backend='shard_map',
      devices=jax.devices()[:4]), WEIGHTS, METRIC)

  @pytest.mark.slow
  def test_auxiliary_output_is_not_weighed(self):
    fn = gradiv.example_moments(
      lambda w, x: (jnp.dot(w, x), x[0]), has_aux=True)
    x = RNG.normal(size=(N, 3)).astype('f')
    (loss, aux), grads, _ = fn(jnp.ones(3), x, weights=WEIGHTS)
    np.testing.assert_allclose(grads, WEIGHTS @ x / WEIGHTS.sum(), 1e-5)
    np.testing.assert_array_equal(aux, x[:, 0])
    np.testing.assert_allclose(loss, grads.sum(), 1e-5)


class WeightsTest(parameterized.TestCase):

  @pytest.mark.slow
  def test_of_zero_and_one_are_a_mask(self):
    mask = WEIGHTS > 1
    fn = gradiv.example_moments(loss_fn)
    run = lambda **kw: reference.quick_jit(
      lambda kw: fn(PARAMS, BATCH, **kw))(kw)
    helpers.assert_close(
      run(weights=mask.astype('f')), run(mask=mask), 1e-4, 1e-6)

  @parameterized.parameters('units', 'importance')
  def test_estimates_are_unbiased(self, kind):
    """Of means over units, and of examples that count more than others."""
    rng = np.random.default_rng(0)
    weights = np.float32([1, 2, 8, 3, .5, 1, 4, 2])
    noise = rng.normal(size=(8000, N, 3)) * [1., 2., 3.]
    if kind == 'units':
      noise /= np.sqrt(weights)[:, None]
    mean = np.array([.6, -.4, .2])
    fn = gradiv.example_moments(lambda w, x: jnp.dot(w, x))
    moments = jax.jit(jax.vmap(lambda x: fn(
      jnp.zeros(3), x, weights=weights)[2]))(np.float32(mean + noise))
    if kind == 'importance':
      moments = moments._replace(
        num_gradients=np.sum(weights)**2 / np.sum(weights**2), batch_size=1.)
    found = gradiv.estimate(moments)
    helpers.assert_mean(found.variance, 1. + 4 + 9)
    helpers.assert_mean(found.sq_norm, mean @ mean)

  @pytest.mark.slow
  def test_mean_over_tokens_of_a_masked_language_model(self):
    """The loss of all masked tokens together has this very gradient."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(N, 6, 3)), rng.normal(size=(N, 6))
    chosen = np.float32(rng.random((N, 6)) < .4)
    chosen[0] = 0  # a sequence without any
    batch = jax.tree.map(np.float32, {'x': x, 'y': y, 'chosen': chosen})

    def of_all(w):
      error = (batch['x'] @ w - batch['y'])**2
      return jnp.sum(error * chosen) / jnp.sum(chosen)

    def of_one(w, sequence):
      error = (sequence['x'] @ w - sequence['y'])**2
      return jnp.sum(error * sequence['chosen']) / jnp.maximum(
        jnp.sum(sequence['chosen']), 1)

    w = jnp.ones(3)
    loss, grads, moments = gradiv.example_moments(of_one)(
      w, batch, weights=chosen.sum(1))
    helpers.assert_close(
      (loss, grads), jax.value_and_grad(of_all)(w), 1e-5)
    self.assertEqual(float(moments.num_gradients), 7)

  def test_wrong_weights_are_refused(self):
    fn = lambda w: gradiv.example_moments(
      lambda w, x: jnp.dot(w, x))(jnp.ones(2), jnp.ones((3, 2)), weights=w)
    for bad in ([1., -1., 1.], [1., np.nan, 1.], [1., np.inf, 1.]):
      with self.assertRaisesRegex(ValueError, 'weights=.*at least 0'):
        fn(np.array(bad))
      # Where they are not known, the results say so.
      for x in jax.tree.leaves(jax.jit(fn)(np.array(bad))[:2]):
        self.assertTrue(np.all(np.isnan(x)))
    with self.assertRaisesRegex(ValueError, 'weights have shape'):
      fn(np.ones(2))


class MetricTest(parameterized.TestCase):

  def test_that_does_not_fit_is_refused(self):
    fn = gradiv.example_moments(lambda w, x: jnp.dot(w, x))
    with self.assertRaisesRegex(ValueError, 'metric with leaves of shapes'):
      fn(jnp.ones(2), jnp.ones((3, 2)), metric=jnp.ones(3))

  @pytest.mark.slow
  def test_of_ones_changes_nothing(self):
    fn = reference.quick_jit(
      lambda metric: gradiv.example_moments(loss_fn)(
        PARAMS, BATCH, metric=metric))
    helpers.assert_close(
      fn(jax.tree.map(np.ones_like, PARAMS)), fn(None), 1e-4, 1e-6)

  def test_of_a_complex_parameter_weighs_both_of_its_parts(self):
    w = jnp.array([1 + 2j, 3 - 1j])
    batch = {'x': jnp.arange(6.).reshape(3, 2), 'a': jnp.ones(3)}
    loss_fn = lambda p, one: jnp.abs(
      jnp.sum(p['w'] * one['x']) - one['a'])**2 + p['b']**2 * one['a']
    params, d = {'b': jnp.float32(2), 'w': w}, jnp.array([.5, 4.])
    metric = {'b': jnp.float32(3), 'w': d}
    *_, moments = reference.quick_jit(gradiv.example_moments(loss_fn))(
      params, batch, metric=metric)
    rows = reference.quick_jit(jax.vmap(jax.grad(loss_fn), (None, 0)))(
      params, batch)
    square = lambda g: 3 * g['b']**2 + jnp.abs(g['w'])**2 @ d
    mean = square(jax.tree.map(lambda x: x.mean(0), rows))
    np.testing.assert_allclose(moments.sq_norm_of_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(
      moments.mean_sq_deviation, square(rows).mean() - mean, rtol=1e-5)

  def test_products_with_one_position_are_not_written_out(self):
    """The largest array is no larger than [n, in]; a gradient is [in, out]."""
    n, size = 64, 96
    params, metric = np.ones((2, size, size), 'f')
    batch = np.ones((n, size), 'f')
    fn = gradiv.example_moments(lambda w, x: jnp.sum(jnp.sin(x @ w)))
    text = jax.jit(fn).lower(params, batch, metric=metric).compile().as_text()
    self.assertNotIn(f'f32[{n},{size},{size}]', text)
    self.assertNotIn(f'f32[{n},1,{size},{size}]', text)


if __name__ == '__main__':
  absltest.main()
