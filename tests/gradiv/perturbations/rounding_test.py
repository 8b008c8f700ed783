"""Rounding to levels: no bias, and the second moment of the formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv import perturbations
from tests import helpers

RNG = np.random.default_rng(13)
KEY = jax.random.key(5)
DRAWS = 8000
VECTOR = jnp.float32(RNG.normal(size=11)).at[4].set(0.)
WAYS = (
  ('one_level', dict(num_levels=1)),
  ('four_levels', dict(num_levels=4)),
  ('buckets', dict(num_levels=2, bucket_size=4)),
  ('ternary', dict(num_levels=1, method='max')),
  ('max_levels', dict(num_levels=3, method='max')),
  ('natural', dict(method='natural')),
)


def draws_of(tree, **options):
  keys = jax.random.split(KEY, DRAWS)
  quantize = jax.jit(jax.vmap(
    lambda key: gradiv.stochastic_quantize(key, tree, **options)))
  return jax.tree.map(np.asarray, quantize(keys))


class LevelsTest(parameterized.TestCase):

  @parameterized.named_parameters(*WAYS)
  @pytest.mark.slow
  def test_mean_and_second_moment(self, options):
    seen = draws_of(VECTOR, **options).astype(np.float64)
    helpers.assert_mean(seen, VECTOR)
    helpers.assert_mean(
      (seen**2).sum(1), perturbations.quantized_sq_norm(VECTOR, **options))

  @pytest.mark.slow
  def test_second_moments_in_closed_form(self):
    v = np.asarray(VECTOR, np.float64)
    norm, d = np.linalg.norm(v), len(v)
    close = lambda actual, expected: np.testing.assert_allclose(
      actual, expected, 1e-5)
    one = perturbations.quantized_sq_norm(VECTOR)
    close(one, norm * np.abs(v).sum())
    self.assertLess(float(one), np.sqrt(d) * norm**2)
    for s in (2, 4, 9):
      f = np.abs(v) / norm * s % 1
      found = perturbations.quantized_sq_norm(VECTOR, s)
      close(found, norm**2 * (1 + np.sum(f * (1 - f)) / s**2))
      self.assertLess(float(found),
                      norm**2 * (1 + min(d / s**2, np.sqrt(d) / s)))
    close(perturbations.quantized_sq_norm(VECTOR, method='max'),
          np.abs(v).max() * np.abs(v).sum())
    close(perturbations.quantized_sq_norm(jnp.ones(9)), 9**1.5)
    natural = float(perturbations.quantized_sq_norm(VECTOR, method='natural'))
    self.assertBetween(natural, norm**2, 9 / 8 * norm**2)
    close(perturbations.quantized_sq_norm(jnp.float32([3.]), method='natural'),
      10.)

  def test_only_the_levels(self):
    norm = np.linalg.norm(VECTOR)
    steps = np.abs(draws_of(VECTOR, num_levels=4)) / norm * 4
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-5)
    powers = np.log2(np.abs(np.delete(
      draws_of(VECTOR, method='natural'), 4, 1)))
    np.testing.assert_array_equal(powers, np.round(powers))
    ternary = draws_of(VECTOR, method='max')
    self.assertLen(np.unique(np.abs(ternary)), 2)
    # Rounded to a neighbor, never past it.
    gaps = draws_of(VECTOR, num_levels=4) - np.asarray(VECTOR)
    self.assertLess(np.abs(gaps).max(), norm / 4)

  def test_a_level_is_kept(self):
    one_hot = jnp.zeros(7).at[2].set(-3.)
    for options in (dict(), dict(num_levels=5), dict(method='max')):
      np.testing.assert_allclose(
        draws_of(one_hot, **options), np.tile(one_hot, (DRAWS, 1)), 1e-6)
    powers = jnp.float32([0.25, -1024., 2.0**-100, 0.])
    np.testing.assert_array_equal(
      draws_of(powers, method='natural'), np.tile(powers, (DRAWS, 1)))

  @pytest.mark.slow
  def test_a_tree_is_one_vector_unless_in_buckets(self):
    tree = {'a': VECTOR[:5].reshape(5, 1), 'b': VECTOR[5:], 'none': None,
            'empty': jnp.zeros((0, 3))}
    for options in (dict(num_levels=3), dict(method='max')):
      np.testing.assert_allclose(
        perturbations.quantized_sq_norm(tree, **options),
        perturbations.quantized_sq_norm(VECTOR, **options), 1e-6)
    for size, parts in ((99, (slice(0, 5), slice(5, 11))),
                        (4, (slice(0, 4), slice(4, 5), slice(5, 9),
                             slice(9, 11)))):
      np.testing.assert_allclose(
        perturbations.quantized_sq_norm(tree, 2, bucket_size=size),
        sum(perturbations.quantized_sq_norm(VECTOR[p], 2) for p in parts), 1e-6)

  @pytest.mark.slow
  def test_extreme_zero_and_non_finite_vectors(self):
    for scale in (1e30, 1e-30):
      seen = gradiv.stochastic_quantize(KEY, scale * VECTOR, 2)
      np.testing.assert_allclose(
        seen / scale, gradiv.stochastic_quantize(KEY, VECTOR, 2), 1e-5)
    for _, options in WAYS:
      quantize = jax.jit(lambda v: gradiv.stochastic_quantize(
        KEY, v, **options))
      np.testing.assert_array_equal(quantize(0 * VECTOR), 0)
      for bad in (jnp.nan, jnp.inf):
        self.assertTrue(np.isnan(quantize(VECTOR.at[0].set(bad))[0]))

  def test_norms_too_large_to_divide_by_give_nan(self):
    for method in ('norm', 'max'):
      seen = gradiv.stochastic_quantize(
        KEY, jnp.float32([1e38, 2e37]), 2, method=method)
      self.assertTrue(np.isnan(seen).all())

  def test_dtypes(self):
    for dtype in (jnp.bfloat16, jnp.float16):
      seen = draws_of(VECTOR.astype(dtype), method='natural')
      self.assertEqual(seen.dtype, dtype)
      helpers.assert_mean(seen, np.float32(VECTOR.astype(dtype)))
      # Other levels are rounded to the dtype, and the mean with them.
      helpers.assert_mean(
        draws_of(VECTOR.astype(dtype), num_levels=3),
        np.float32(VECTOR.astype(dtype)),
        rounding=float(jnp.finfo(dtype).eps))

  @parameterized.parameters(('vmap', WAYS[2]), ('shard_map', WAYS[5]))
  @pytest.mark.slow
  def test_each_worker_rounds_on_its_own(self, backend, way):
    options = {'num_levels': 1} | way[1]
    tx = gradiv.quantize_updates(key=KEY, axis_name='workers', **options)
    rows = jnp.tile(VECTOR, (3, 1))

    def steps(g):
      return jax.lax.scan(lambda s, _: tx.update(g, s)[::-1], tx.init(g),
                          None, length=2000)[1]

    mapped = gradiv.map_workers(steps, 'workers', backend=backend)
    seen = np.asarray(mapped(rows), np.float64)
    flat = seen.reshape(6000, -1)
    helpers.assert_mean(flat, VECTOR)
    helpers.assert_mean((flat**2).sum(1), perturbations.quantized_sq_norm(
      VECTOR, **options))
    self.assertTrue((seen[0] != seen[1]).any())

  @parameterized.parameters(
    (dict(num_levels=0), 'num_levels'),
    (dict(num_levels=1.5), 'num_levels'),
    (dict(method='best'), 'method'),
    (dict(bucket_size=0), 'bucket_size'),
    (dict(num_levels=2, method='natural'), 'num_levels'),
    (dict(bucket_size=4, method='natural'), 'bucket_size'))
  def test_invalid_arguments(self, options, name):
    options = {'num_levels': 1} | options
    with self.assertRaisesRegex(ValueError, name):
      gradiv.quantize_updates(key=KEY, **options)
    with self.assertRaisesRegex(ValueError, name):
      gradiv.stochastic_quantize(KEY, VECTOR, **options)


if __name__ == '__main__':
  absltest.main()
