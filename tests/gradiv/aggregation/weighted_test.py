"""Weights decided from the Gram matrix, under every layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import PartitionSpec as P

import gradiv
from gradiv import aggregation, weightings
from tests import helpers
from tests.gradiv.aggregation.gram_helpers import RNG, sample, stacked


class LayoutTest(parameterized.TestCase):

  @parameterized.parameters('vmap', 'shard_map')
  @pytest.mark.slow
  def test_workers_may_be_averaged_over_some_axes_first(self, backend):
    axis = ('group', 'member')
    grads = sample(8)
    grads['a']['bias'] = grads['a']['bias'].at[5, 0].set(jnp.nan)
    tx = gradiv.aggregate_by_agreement(
      0.99, 'group', num_workers=4,
      layout=gradiv.Layout(mean_over='member'))
    like = jax.tree.map(lambda g: g[0], grads)
    update, state = helpers.on_workers(
      lambda g, s: tx.update(g, s), grads, tx.init(like), axis, backend,
      devices=jax.devices()[:4])
    kept = jax.tree.map(lambda g: np.delete(np.asarray(g), 5, 0), grads)
    means = jax.tree.map(lambda g: np.stack(
      [g[:2].mean(0), g[2:4].mean(0), g[4], g[5:].mean(0)]), kept)
    expected, wanted = helpers.on_workers(
      lambda g, s: tx_of_means.update(g, s), means,
      (tx_of_means := gradiv.aggregate_by_agreement(
        0.99, 'workers', num_workers=4)).init(like))
    helpers.assert_close(update, expected, 1e-5, 1e-6)
    np.testing.assert_allclose(state.weights, wanted.weights, 1e-5)
    self.assertEqual(int(state.num_left_out), 1)

  @parameterized.parameters('vmap', 'shard_map')
  @pytest.mark.slow
  def test_gradients_may_be_sharded(self, backend):
    """Kernels cut over an axis, biases the same along it and counted once."""
    kernel = jnp.float32(RNG.normal(size=(4, 2, 30, 5)))
    bias = jnp.float32(RNG.normal(size=(4, 7)))
    cut = {'kernel': kernel.reshape(8, 30, 5), 'bias': jnp.repeat(bias, 2, 0)}
    whole = {'kernel': kernel.reshape(4, 60, 5), 'bias': bias}
    options = dict(num_workers=4, fallback='closest_pair')
    tx = gradiv.aggregate_by_agreement(
      0.9, 'data', **options, layout=gradiv.Layout(
        sharded_over='model',
        is_sharded=lambda path: path[-1].key == 'kernel'))
    plain = gradiv.aggregate_by_agreement(0.9, 'workers', **options)

    def fn(g, s):
      return tx.update(g, s)

    update, state = gradiv.map_workers(
      fn, ('data', 'model'), in_axes=(0, None), out_axes=(0, None),
      backend=backend, devices=jax.devices()[:4])(
        cut, tx.init(jax.tree.map(lambda g: g[0], cut)))
    expected, wanted = helpers.on_workers(
      lambda g, s: plain.update(g, s), whole,
      plain.init(jax.tree.map(lambda g: g[0], whole)))
    np.testing.assert_allclose(state.weights, wanted.weights, 1e-5)
    np.testing.assert_allclose(state.mean_cosine, wanted.mean_cosine, 1e-4)
    shards = np.asarray(update['kernel']).reshape(4, 60, 5)
    np.testing.assert_allclose(
      shards, np.broadcast_to(expected['kernel'], shards.shape), 1e-5, 1e-6)
    np.testing.assert_allclose(update['bias'][0], expected['bias'], 1e-5, 1e-6)

  @parameterized.parameters('vmap', 'shard_map')
  @pytest.mark.slow
  def test_clipping_around_the_last_update_or_a_given_tree(self, backend):
    grads = sample(4)
    like = jax.tree.map(lambda g: jnp.zeros_like(g[0]), grads)
    anchor = jax.tree.map(lambda g: jnp.float32(
      RNG.normal(size=g.shape)), like)
    rule = weightings.centered_clipping(2.)
    tx = gradiv.aggregate_by_weights(rule, 'workers', extra=('anchor',))
    own = gradiv.aggregate_by_weights(rule, 'workers')

    def fn(g, given):
      first, state = own.update(g, own.init(like))
      return (tx.update(g, tx.init(like), anchor=given)[0], first,
              own.update(g, state)[0])

    given, first, second = helpers.on_workers(
      fn, grads, anchor, backend=backend, devices=jax.devices()[:4])
    one = lambda tree: stacked(jax.tree.map(lambda x: x[None], tree))[0]
    rows = stacked(grads)
    start = np.zeros(rows.shape[1])
    for update, around in ((given, one(anchor)), (first, start),
                           (second, one(first))):
      gap = rows - around
      pull = np.minimum(1, 2 / np.linalg.norm(gap, axis=1))
      np.testing.assert_allclose(
        one(update), around + (pull[:, None] * gap).mean(0), 1e-4, 1e-5)

  @parameterized.parameters(
    (dict(extra=('a', 'b')), 'extra='),
    (dict(extra='anchor'), 'extra='),
    (dict(extra=()), 'extra='),
    (dict(sharded=True), 'sharded='),
    (dict(num_workers=0), 'num_workers='),
    (dict(key=3), 'key='),
    (dict(layout={'groups': None}), 'layout='),
  )
  def test_arguments_are_checked_at_construction(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      gradiv.aggregate_by_weights(
        weightings.centered_clipping(1.), 'workers', **options)

  def test_a_weighting_asks_for_what_it_needs(self):
    with self.assertRaisesRegex(ValueError, 'key='):
      gradiv.aggregate_by_weights(weightings.pcgrad(), 'workers')
    with self.assertRaisesRegex(ValueError, 'num_workers='):
      gradiv.aggregate_by_weights(weightings.adacons(), 'workers')
    tx = gradiv.aggregate_by_weights(
      weightings.adacons(), 'workers', num_workers=4)
    with self.assertRaisesRegex(ValueError, 'num_workers=4'):
      helpers.on_workers(lambda g, s: tx.update(g, s), np.ones((3, 2), 'f'),
                         tx.init(jnp.ones(2)))


class OwnShardMapTest(parameterized.TestCase):
  """Inside a caller's own shard_map, with either value of check_vma."""

  @parameterized.product(
    check_vma=(True, False),
    tx=(gradiv.aggregate_by_agreement(0.9, 'workers'),
        gradiv.aggregate_by_median('workers'),
        gradiv.aggregate_by_weights(
          weightings.geometric_median(), 'workers'),
        aggregation.aggregate_by_bulyan(1, 'workers'),
        gradiv.aggregate_by_sign_agreement(0.5, 'workers', normalize=True)))
  @pytest.mark.slow
  def test_leaves_as_common(self, check_vma, tx):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ('workers',))
    grads = jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), sample(8))
    del grads['none']
    like = jax.tree.map(lambda g: g[0], grads)
    step = jax.jit(jax.shard_map(
      lambda g, s: tx.update(jax.tree.map(lambda x: x[0], g), s), mesh=mesh,
      in_specs=(P('workers'), P()), out_specs=P(), check_vma=check_vma))
    helpers.assert_close(
      step(grads, tx.init(like)), helpers.on_workers(
        lambda g, s: tx.update(g, s), grads, tx.init(like)),
      1e-5, of_largest=1e-6)

  def test_a_state_that_depends_on_the_workers_asks_for_their_number(self):
    # Such a weighting need not say that it needs_size.
    rule = weightings.Weighting(
      step=lambda gram, present, state, key: (state, state),
      init=lambda num_gradients: jnp.ones(num_gradients))
    tx = gradiv.aggregate_by_weights(rule, 'workers')
    with self.assertRaisesRegex(ValueError, 'num_workers=None'):
      tx.init(jnp.zeros(3))


if __name__ == '__main__':
  absltest.main()
