"""The Gram exchange is exact, for any number of workers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv import aggregation, weightings
from tests import helpers
from tests.gradiv.aggregation.gram_helpers import (
  RNG,
  gram_error,
  sample,
  stacked,
)


class WorkerGramTest(parameterized.TestCase):

  @parameterized.named_parameters(*helpers.ON_ALL)
  def test_equals_numpy(self, backend, axis, workers):
    gram_of = gradiv.map_workers(
      lambda g: gradiv.worker_gram(g, axis), axis, out_axes=None,
      backend=backend)
    for scale in (1e-10, 1., 1e10):
      grads = sample(workers, scale=scale)
      actual = gram_of(grads)
      self.assertEqual(actual.dtype, jnp.float32)
      self.assertLess(gram_error(actual, stacked(grads)), 1e-6)

  @parameterized.parameters(1, 2, 3, 7)
  def test_any_number_of_workers(self, workers):
    grads = sample(workers)
    actual = helpers.on_workers(
      lambda g, _: gradiv.worker_gram(g, 'workers'), grads)
    self.assertLess(gram_error(actual, stacked(grads)), 1e-6)

  @parameterized.parameters(1, 4)
  def test_long_sums_of_few_workers(self, workers):
    self.check_long_sums(workers)

  @parameterized.parameters(2, 3)
  @pytest.mark.slow
  def test_long_sums_of_two_or_three(self, workers):
    self.check_long_sums(workers)

  def check_long_sums(self, workers):
    # Added up one by one in float32, errors would be a hundred times this.
    grads = jnp.float32(RNG.normal(0.3, 1, (workers, workers * 1_000_000)))
    actual = helpers.on_workers(
      lambda g, _: gradiv.worker_gram(g, 'workers'), grads)
    self.assertLess(gram_error(actual, stacked([grads])), 1e-5)

  def test_bfloat16_products_are_summed_in_float32(self):
    grads = sample(8, jnp.bfloat16)
    actual = helpers.on_workers(
      lambda g, _: gradiv.worker_gram(g, 'workers'), grads)
    # Five times the rounding of float32 is that of the CPU's dot product.
    self.assertLess(gram_error(actual, stacked(grads)), 1e-5)

  def test_groups_are_stacked_in_the_order_of_their_names(self):
    grads = sample(4)
    grams = helpers.on_workers(
      lambda g, _: gradiv.worker_gram(
        g, 'workers', layout=gradiv.Layout(groups=gradiv.by_layer)),
      grads)
    names = gradiv.group_names(grads, gradiv.by_layer)
    self.assertEqual(names, ('a', 'empty', 'large', 'scale'))
    for name, gram in zip(names, grams, strict=True):
      if name == 'empty':
        np.testing.assert_array_equal(gram, np.zeros((4, 4)))
      else:
        self.assertLess(gram_error(gram, stacked(grads[name])), 1e-6)

  def test_not_finite_is_nan_there_and_nowhere_else(self):
    grads = sample(4)
    grads['large'] = grads['large'].at[2, 3, 5].set(jnp.inf)
    actual = np.asarray(helpers.on_workers(
      lambda g, _: gradiv.worker_gram(g, 'workers'), grads))
    self.assertTrue(np.isnan(actual[2]).all() and np.isnan(actual[:, 2]).all())
    kept = [0, 1, 3]
    self.assertLess(gram_error(
      actual[np.ix_(kept, kept)], stacked(grads)[kept]), 1e-6)

  def test_pairwise_cosine(self):
    rows = RNG.normal(size=(5, 9)) * np.array([[1e-15, 1, 1e15, 0, 2]]).T
    cosines = np.asarray(gradiv.pairwise_cosine(jnp.float32(rows @ rows.T)))
    self.assertTrue(np.isnan(cosines[3]).all())
    kept = [0, 1, 2, 4]
    units = rows[kept] / np.linalg.norm(rows[kept], axis=1, keepdims=True)
    np.testing.assert_allclose(
      cosines[np.ix_(kept, kept)], units @ units.T, 1e-4, 1e-6)

  def test_leaves_must_be_floating(self):
    with self.assertRaisesRegex(ValueError, r"\['a'\] has dtype int32"):
      helpers.on_workers(lambda g, _: gradiv.worker_gram(g, 'workers'),
                         {'a': np.arange(4)})


class CombineTest(parameterized.TestCase):

  @parameterized.named_parameters(*helpers.ON_EACH)
  def test_equals_numpy(self, backend, axis, workers):
    self.check(backend, axis, workers)

  @parameterized.named_parameters(*helpers.ON_THE_REST)
  @pytest.mark.slow
  def test_equals_numpy_in_other_layouts(self, backend, axis, workers):
    self.check(backend, axis, workers)

  def check(self, backend, axis, workers):
    grads = sample(workers)
    weights = jnp.float32(RNG.normal(size=workers))
    actual = helpers.on_workers(
      lambda g, w: aggregation.combine(g, w, axis), grads, weights, axis,
        backend)
    expected = jax.tree.map(
      lambda g: np.einsum('i,i...->...', np.float64(weights), g), grads)
    helpers.assert_close(actual, expected, 1e-5, 1e-5)

  def test_acts_as_weighed_slices_do(self):
    grads = sample(8, jnp.bfloat16)
    rule = weightings.norm_clipping(1.)
    tx = gradiv.aggregate_by_weights(rule, 'workers')
    by_slices, _ = helpers.on_workers(
      lambda g, s: tx.update(g, s), grads,
      tx.init(jax.tree.map(lambda g: g[0], grads)))
    by_psum = helpers.on_workers(lambda g, _: aggregation.combine(
      g, rule(gradiv.worker_gram(g, 'workers')), 'workers'), grads)
    helpers.assert_close(by_slices, by_psum, 0.01, 1e-3)

  @pytest.mark.slow
  def test_gram_weights_and_combine_by_hand(self):
    """The three steps in public, with a worker that is not finite."""
    grads = np.float32(RNG.normal(size=(5, 30)))
    grads[2, 4] = np.nan
    rest = np.delete(grads, 2, 0)
    for rule in (weightings.mean(), weightings.krum(0), weightings.mgda(),
                 weightings.geometric_median(), weightings.agreement(2.)):
      def by_hand(g, _):
        weights = rule(gradiv.worker_gram(g, 'workers'))
        return aggregation.combine(g, weights, 'workers')

      actual, expected = (helpers.on_workers(by_hand, x)
                          for x in (grads, rest))
      np.testing.assert_allclose(actual, expected, 1e-4, 1e-6)


if __name__ == '__main__':
  absltest.main()
