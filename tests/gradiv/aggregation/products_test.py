"""Two workers exchange the sum of their gradients alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv import weightings
from gradiv.aggregation._exchange import finite, membership, products, slices
from tests import helpers
from tests.gradiv.aggregation.gram_helpers import (
  RNG,
  collectives,
  compiled,
  gram_error,
  stacked,
)


class PairTest(parameterized.TestCase):
  """Two workers exchange the sum of their gradients instead of slices."""

  @parameterized.parameters('vmap', 'pmap', 'shard_map')
  @pytest.mark.slow
  def test_equals_the_exchange_of_slices(self, backend):
    for kind, grads in self.hard_pairs():
      tree = {'a': jnp.float32(grads[:, :5]), 'b': jnp.float32(grads[:, 5:])}
      both = helpers.on_workers(
        self.both_ways, tree, backend=backend)
      # An error of rounding in the cosine is one of its root in the angle.
      helpers.assert_close(both[0], both[1], 1e-5, of_largest=1e-5)
      rows = stacked(jax.tree.map(lambda x: np.nan_to_num(x), tree))
      if np.isfinite(grads).all() and (np.linalg.norm(rows, axis=1) > 0).all():
        self.assertLess(gram_error(both[0][0][0], rows), 1e-6, kind)

  @staticmethod
  def both_ways(g, _):
    contribution = finite.contribute(
      g, membership.Participants.of('workers'))
    return [products.gram_matrices_of_pair(contribution)[:3],
            products.gram_matrices(slices.all_to_all(contribution))]

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

  @parameterized.parameters(
    (0.5, 'zero'), (1.2, 'mean'), (0.5, 'closest_pair'))
  def test_decides_and_acts_the_same(self, limit, fallback):
    self.check_same(limit, fallback)

  @parameterized.parameters(
    (1.2, 'zero'), (0.5, 'mean'), (1.2, 'closest_pair'))
  @pytest.mark.slow
  def test_so_with_the_other_limits(self, limit, fallback):
    self.check_same(limit, fallback)

  def check_same(self, limit, fallback):
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
      # A cosine is known to a part of one, also where it is near zero.
      helpers.assert_close(fast, slow, 1e-5, 1e-8, of_largest=1e-6)

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


if __name__ == '__main__':
  absltest.main()
