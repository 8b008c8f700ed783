"""The Gram exchange is exact, for any number of workers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

import gradiv
from gradiv import weightings
from gradiv.aggregation._exchange import gram, layout as wires, slices
from tests import helpers
from tests.gradiv.aggregation.gram_helpers import (
  RNG,
  collectives,
  compiled,
  gram_error,
  sample,
  stacked,
)


class WorkerGramTest(parameterized.TestCase):

  @parameterized.named_parameters(*helpers.ON_ALL)
  def test_equals_numpy(self, backend, axis, workers):
    for scale in (1e-10, 1., 1e10):
      grads = sample(workers, scale=scale)
      actual = helpers.on_workers(
        lambda g, _: gradiv.worker_gram(g, axis), grads, (), axis, backend)
      self.assertEqual(actual.dtype, jnp.float32)
      self.assertLess(gram_error(actual, stacked(grads)), 1e-6)

  @parameterized.parameters(1, 2, 3, 7)
  def test_any_number_of_workers(self, workers):
    grads = sample(workers)
    actual = helpers.on_workers(
      lambda g, _: gradiv.worker_gram(g, 'workers'), grads)
    self.assertLess(gram_error(actual, stacked(grads)), 1e-6)

  @parameterized.parameters(1, 2, 3, 4)
  def test_long_sums_of_few_workers(self, workers):
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

  def test_groups(self):
    grads = sample(4)
    grams = helpers.on_workers(
      lambda g, _: gradiv.worker_gram(g, 'workers', groups=gradiv.by_layer),
      grads)
    self.assertEqual(set(grams), {'a', 'scale', 'empty', 'large'})
    np.testing.assert_array_equal(grams['empty'], np.zeros((4, 4)))
    for name in ('a', 'scale', 'large'):
      self.assertLess(gram_error(grams[name], stacked(grads[name])), 1e-6)

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

  @parameterized.parameters(('workers', 'workers'), ('', None))
  def test_bad_axes(self, axis, mean_over):
    with self.assertRaisesRegex(ValueError, 'axis_name'):
      gradiv.Wire(axis, mean_over=mean_over)

  def test_leaves_must_be_floating(self):
    with self.assertRaisesRegex(ValueError, r"\['a'\] has dtype int32"):
      helpers.on_workers(lambda g, _: gradiv.worker_gram(g, 'workers'),
                         {'a': np.arange(4)})


class PairTest(parameterized.TestCase):
  """Two workers meet by the sum of their gradients."""

  @parameterized.parameters('vmap', 'pmap', 'shard_map')
  def test_equals_the_exchange_of_slices(self, backend):
    for kind, grads in self.hard_pairs():
      tree = {'a': jnp.float32(grads[:, :5]), 'b': jnp.float32(grads[:, 5:])}
      both = helpers.on_workers(
        self.both_ways, tree, backend=backend)
      # An error of rounding in the cosine is one of its root in the angle.
      helpers.assert_close(both[0], both[1], 1e-5, of_largest=1e-5)
      rows = stacked(jax.tree.map(lambda x: np.nan_to_num(x), tree))
      if np.isfinite(grads).all() and (np.linalg.norm(rows, axis=1) > 0).all():
        self.assertLess(gram_error(both[0][0]['']['gram'], rows), 1e-6, kind)

  @staticmethod
  def both_ways(g, _):
    admitted = wires.admit(g, gradiv.Wire('workers'))
    ways = (gram.gram_of_pair(admitted)[:3],
            gram.gram_of(slices.scatter(admitted)))
    return [({'': {'gram': grams['']}}, *rest) for grams, *rest in ways]

  @staticmethod
  def hard_pairs():
    a, b = RNG.normal(size=(2, 4000))
    yield 'independent', np.stack([a, b])
    yield 'equal', np.stack([a, a])
    yield 'opposite', np.stack([a, -a])
    yield 'short and long', np.stack([1e-6 * a, 1e3 * (a + 0.1 * b)])
    yield 'long and short', np.stack([1e6 * a, 1e-3 * (b - 0.1 * a)])
    yield 'zero', np.stack([a, 0 * b])
    yield 'not finite', np.stack([np.where(np.arange(4000) == 3, np.nan, a), b])

  @parameterized.product(
    limit=(0.5, 1.2), fallback=('zero', 'mean', 'closest_pair'))
  def test_decides_and_acts_the_same(self, limit, fallback):
    rule = weightings.agreement(limit, fallback=fallback)
    self.assertTrue(rule.equal_pair)
    hidden = weightings.Weighting(rule.step, rule.init)
    both = [gradiv.aggregate_by_weights(r, 'workers', num_workers=2)
            for r in (rule, hidden)]
    step = gradiv.map_workers(
      lambda g: [tx.update(g, tx.init(g)) for tx in both], 'workers',
      in_axes=(0,), out_axes=None)
    for _, grads in self.hard_pairs():
      fast, slow = step(jnp.float32(grads))
      helpers.assert_close(fast, slow, 1e-5, of_largest=1e-6)

  def test_one_all_reduce_shared_with_the_moments(self):
    tx = optax.chain(gradiv.track_moments('workers', batch_size=4),
                     gradiv.aggregate_by_agreement(0.9, 'workers'))
    found = collectives(compiled(tx, {'w': jnp.zeros((300, 50))}, workers=2))
    self.assertEqual({name for name, _ in found}, {'all-reduce'})
    small, large = sorted(size for _, size in found)
    self.assertLess(small, 8)
    self.assertBetween(large, 15_000, 15_008)

  def test_worker_without_direction_moves_only_the_anchor(self):
    # Weights that differ: not a case for the sum.
    rule = weightings.agreement(0.5, min_agreed=1)
    self.assertFalse(rule.equal_pair)
    tx = gradiv.aggregate_by_weights(rule, 'workers')
    update, _ = helpers.on_workers(
      lambda g, s: tx.update(g, s), jnp.float32([[1, 0], [0, 1]]),
      tx.init(jnp.zeros(2)))
    np.testing.assert_array_equal(update, [1, 0])


class CombineTest(parameterized.TestCase):

  @parameterized.named_parameters(*helpers.ON_ALL)
  def test_equals_numpy(self, backend, axis, workers):
    grads = sample(workers)
    weights = jnp.float32(RNG.normal(size=workers))
    actual = helpers.on_workers(
      lambda g, w: gradiv.combine(g, w, axis), grads, weights, axis, backend)
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
    by_psum = helpers.on_workers(lambda g, _: gradiv.combine(
      g, rule(gradiv.worker_gram(g, 'workers')), 'workers'), grads)
    helpers.assert_close(by_slices, by_psum, 0.01, 1e-3)


if __name__ == '__main__':
  absltest.main()
