"""Sums of clipped gradients: against gradients one by one, and JAX-Privacy."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized

from gradiv.per_example import clipped_grad
from tests import helpers

try:
  from jax_privacy import clipping as jax_privacy
except ImportError:
  jax_privacy = None

RNG = np.random.default_rng(5)
N = 6
PARAMS = {
  'in': {'w': np.float32(RNG.normal(size=(4, 5))),
         'b': np.float32(RNG.normal(size=5))},
  'out': np.float32(RNG.normal(size=(5, 2))),
}
X = np.float32(RNG.normal(size=(N, 4)) * np.geomspace(.1, 10, N)[:, None])
Y = np.float32(RNG.normal(size=(N, 2)))


def loss_fn(params, x, y):
  hidden = jnp.tanh(x @ params['in']['w'] + params['in']['b'][None])
  errors = hidden @ params['out'] - y
  return jnp.mean(jnp.sum(errors**2, -1)), {'hidden': hidden}


OPTIONS = dict(
  plain=dict(l2_clip_norm=2.),
  by_part=dict(l2_clip_norm={'in': 1., 'out': 3.}),
  by_leaf=dict(l2_clip_norm={'in': {'w': 1., 'b': .5}, 'out': 2.}),
  to_unit=dict(l2_clip_norm=2., rescale_to_unit_norm=True, normalize_by=3.),
  parts_to_unit=dict(
    l2_clip_norm={'in': 1., 'out': 3.}, rescale_to_unit_norm=True),
  nothing=dict(l2_clip_norm=0.),
  directions=dict(l2_clip_norm=0., rescale_to_unit_norm=True),
  unlimited=dict(l2_clip_norm=np.inf),
  microbatches=dict(l2_clip_norm=2., microbatch_size=2),
  transformed=dict(
    l2_clip_norm=2., microbatch_size=3,
    pre_clipping_transform=lambda g: {**g, 'out': 3 * g['out']}),
  wide=dict(l2_clip_norm={'in': 1., 'out': 3.}, dtype=np.float32),
)


def one_by_one(options, padding):
  """Sum clipped gradients of one example after the other."""
  limit, to_unit = options['l2_clip_norm'], options.get('rescale_to_unit_norm')
  transform = options.get('pre_clipping_transform', lambda g: g)
  total, norms, norm = 0, [], lambda part: float(optax.tree.norm(part))
  scale = lambda c, size: (
    min(1, c / size) / (c if to_unit else 1) if c else to_unit / size)
  grad_fn = jax.jit(jax.grad(loss_fn, has_aux=True))
  for x, y, is_padding in zip(X, Y, padding):
    grad = jax.tree.map(np.asarray, grad_fn(PARAMS, x[None], y[None])[0])
    norms.append(jax.tree.map(lambda _, part: norm(part), limit, grad))
    clipped = jax.tree.map(
      lambda c, part: optax.tree.scale(scale(c, norm(part)), part), limit,
      transform(grad))
    total = optax.tree.add(total, clipped) if total else clipped
    if is_padding:
      total = optax.tree.sub(total, clipped)
  scaled = optax.tree.scale(1 / options.get('normalize_by', 1.), total)
  return scaled, jax.tree.map(lambda *x: np.array(x), *norms)


class ClippedSumsTest(parameterized.TestCase):

  @parameterized.parameters('by_part', 'transformed')
  def test_definition(self, name):
    self._check(name)

  @parameterized.parameters(*sorted({*OPTIONS} - {'by_part', 'transformed'}))
  @pytest.mark.slow
  def test_definition_with_every_option(self, name):
    self._check(name)

  def _check(self, name):
    options = OPTIONS[name]
    padding = np.arange(N) == 3
    grad_fn = jax.jit(clipped_grad(
      loss_fn, has_aux=True, batch_argnums=(1, 2), return_values=True,
      return_grad_norms=True, **options))
    total, aux = grad_fn(PARAMS, X, Y, is_padding_example=padding)
    expected, norms = one_by_one(
      {'rescale_to_unit_norm': False, **options}, padding)
    helpers.assert_close(total, expected, 1e-4, 1e-5)
    helpers.assert_close(aux.grad_norms, norms, 1e-5, 1e-6)
    values = [loss_fn(PARAMS, x[None], y[None])[0] for x, y in zip(X, Y)]
    np.testing.assert_allclose(aux.values, values, 1e-5)
    self.assertEqual(aux.aux['hidden'].shape, (N, 5))

  @parameterized.parameters(*OPTIONS)
  @pytest.mark.slow
  def test_as_jax_privacy(self, name):
    if jax_privacy is None:
      self.skipTest('jax_privacy is not installed')
    results = []
    for make in clipped_grad, jax_privacy.clipped_grad:
      try:
        with warnings.catch_warnings():
          warnings.simplefilter('ignore')  # of what it calls in optax
          fn = make(loss_fn, has_aux=True, batch_argnums=(1, 2),
                    return_values=True, return_grad_norms=True,
                    **OPTIONS[name])
          total, aux = jax.jit(fn)(PARAMS, X, Y)
      except TypeError as error:
        if make is clipped_grad:
          raise
        self.skipTest(f'this jax_privacy has no trees of norms: {error}')
      results.append((total, tuple(aux), fn.l2_norm_bound, fn.sensitivity()))
    helpers.assert_close(*results, 1e-4, 1e-5)

  @parameterized.parameters(
    dict(), dict(pre_clipping_transform=lambda g: g))
  @pytest.mark.slow
  def test_an_example_that_is_not_finite(self, **options):
    spoiled = X.copy()
    spoiled[2] = np.nan
    options.update(l2_clip_norm={'in': 1., 'out': 3.}, batch_argnums=(1, 2),
                   has_aux=True)
    total, _ = clipped_grad(loss_fn, **options)(PARAMS, spoiled, Y)
    expected, _ = clipped_grad(loss_fn, **options)(
      PARAMS, X, Y, is_padding_example=np.arange(N) == 2)
    helpers.assert_close(total, expected, 1e-5, 1e-6)
    total, _ = clipped_grad(loss_fn, nan_safe=False, **options)(
      PARAMS, spoiled, Y)
    self.assertTrue(np.isnan(total['out']).any())

  @parameterized.parameters(None, np.float32)
  @pytest.mark.slow
  def test_examples_draw_apart(self, dtype):
    noisy = lambda w, x, key: jnp.sum(w * jax.random.normal(key, x.shape))
    grad_fn = clipped_grad(
      noisy, l2_clip_norm=np.inf, prng_argnum=2, dtype=dtype,
      keep_batch_dim=False)
    key = jax.random.key(3)
    draws = [jax.random.normal(k, ()) for k in jax.random.split(key, N)]
    self.assertAlmostEqual(
      grad_fn(2., X[:, 0], key).item(), sum(draws).item(), 5)

  @pytest.mark.slow
  def test_several_arguments_and_keywords(self):
    product = lambda scale, x, w, *, power: (scale * jnp.sum(x * w))**power
    grad_fn = clipped_grad(
      product, argnums=(2, 0), l2_clip_norm=1., keep_batch_dim=False)
    w, scale = jnp.ones(4), jnp.float32(2)
    total = grad_fn(scale, X, w, power=2)
    grads = [jax.grad(functools.partial(product, power=2), (2, 0))(scale, x, w)
             for x in X]
    clipped = [optax.tree.scale(min(1, 1 / optax.tree.norm(g)), g)
               for g in grads]
    helpers.assert_close(total, jax.tree.map(lambda *x: sum(x), *clipped),
                         1e-4, 1e-5)

  def test_gradients_are_not_written_out(self, width=512, n=32):
    loss = lambda w, x: jnp.mean(jnp.sum(jnp.tanh(x @ w), -1))
    program = jax.jit(clipped_grad(loss, l2_clip_norm=1.)).lower(
      jnp.ones((width, width)), jnp.ones((n, width))).compile()
    self.assertLess(  # Two gradients, not 32.
      program.memory_analysis().temp_size_in_bytes, 2 * 4 * width**2)

  def test_sensitivity(self):
    parts = clipped_grad(loss_fn, l2_clip_norm={'in': 3., 'out': 4.},
                         normalize_by=2.)
    self.assertEqual(parts.sensitivity(), 2.5)
    self.assertEqual(parts.sensitivity('REPLACE_ONE'), 5)
    with self.assertRaisesRegex(ValueError, 'neighboring_relation'):
      parts.sensitivity('NONE')

  @pytest.mark.slow
  def test_whole_numbers_for_the_discrete_mechanism(self):
    with jax.enable_x64(True):
      total = clipped_grad(
        lambda w, x: jnp.mean((x - w[None])**2), l2_clip_norm=1.,
        grid_scale=1000, microbatch_size=2)(jnp.zeros(4), jnp.float64(X))
    self.assertEqual(total.dtype, np.int64)
    grads = -2 * np.float64(X) / 4
    grads /= np.maximum(np.linalg.norm(grads, axis=1, keepdims=True), .999)
    np.testing.assert_allclose(total, 1000 * .999 * grads.sum(0), atol=N)

  @parameterized.parameters(
    (dict(l2_clip_norm=-1.), 'l2_clip_norm'),
    (dict(l2_clip_norm=1., normalize_by=0), 'normalize_by'),
    (dict(l2_clip_norm=1., batch_argnums=0), 'overlap'),
    (dict(l2_clip_norm=1., batch_argnums=-1), 'batch_argnums'),
    (dict(l2_clip_norm=1., grid_scale=9, rescale_to_unit_norm=True), 'grid'))
  def test_arguments_that_do_not_fit(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      clipped_grad(loss_fn, **options)

  def test_calls_that_do_not_fit(self):
    options = dict(batch_argnums=(1, 2), has_aux=True)
    call = clipped_grad(loss_fn, l2_clip_norm=1., **options)
    with self.assertRaisesRegex(ValueError, 'same size'):
      call(PARAMS, X, Y[:2])
    with self.assertRaisesRegex(ValueError, 'is_padding_example'):
      call(PARAMS, X, Y, is_padding_example=np.zeros(N))
    with self.assertRaisesRegex(ValueError, 'prefix'):
      clipped_grad(loss_fn, l2_clip_norm={'in': 1.}, **options)(PARAMS, X, Y)
    with self.assertRaisesRegex(ValueError, 'jax_enable_x64'):
      clipped_grad(loss_fn, l2_clip_norm=1., grid_scale=10**6, **options)(
        PARAMS, X, Y)


if __name__ == '__main__':
  absltest.main()
