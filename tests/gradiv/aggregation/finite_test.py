"""Gradients that are not finite are left out, in every layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import Mesh, PartitionSpec as P

import gradiv
from gradiv import aggregation, weightings
from tests import helpers

RNG = np.random.default_rng(9)
ALL_SHARDED = gradiv.Layout(sharded_over='model')
SHARDED = gradiv.Layout(
  sharded_over='model', is_sharded=lambda path: path[-1].key == 'kernel')


def run(tx, grads, **options):
  """One step of all workers."""
  like = jax.tree.map(lambda g: g[0], grads)
  return helpers.on_workers(
    lambda g, s: tx.update(g, s), grads, tx.init(like), **options)


def run_sharded(tx, grads, check_vma, shards=2):
  """One step; rows of `grads` are worker by worker, shard by shard."""
  workers = len(grads['kernel']) // shards
  mesh = Mesh(np.array(jax.devices()[:workers * shards]).reshape(
    workers, shards), ('data', 'model'))
  like = jax.tree.map(lambda g: g[0], grads)
  spec = {'kernel': P('model'), 'bias': P()}
  return jax.jit(jax.shard_map(
    lambda g, s: tx.update(jax.tree.map(lambda x: x[0], g), s), mesh=mesh,
    in_specs=({'kernel': P(('data', 'model')), 'bias': P('data')}, P()),
    out_specs=(spec, P()), check_vma=check_vma))(grads, tx.init(like))


def sharded_sample(workers=4, shards=2):
  return {'kernel': jnp.float32(RNG.normal(size=(workers * shards, 5, 3))),
          'bias': jnp.float32(RNG.normal(size=(workers, 9)))}


class ShardedTest(parameterized.TestCase):

  @parameterized.product(check_vma=(True, False), rule=(
    lambda **kw: gradiv.aggregate_by_agreement(0.99, 'data', **kw),
    lambda **kw: gradiv.aggregate_by_weights(
      weightings.geometric_median(), 'data', **kw),
    lambda **kw: gradiv.aggregate_by_median('data', **kw),
    lambda **kw: aggregation.aggregate_by_bulyan(0, 'data', **kw),
    lambda **kw: aggregation.aggregate_by_smooth_sign_agreement(0.2, 'data',
      **kw),
    lambda **kw: gradiv.aggregate_by_weights(
      weightings.norm_clipping(2.), 'data', **kw),
    lambda **kw: gradiv.aggregate_by_mean('data', **kw)))
  @pytest.mark.slow
  def test_sharded_workers_decide_as_whole_ones(self, check_vma, rule):
    grads = sharded_sample()
    update, state = run_sharded(
      rule(layout=SHARDED), grads, check_vma)
    whole = {'kernel': grads['kernel'].reshape(4, 10, 3),
             'bias': grads['bias']}
    tx = rule()
    expected, wanted = gradiv.map_workers(
      lambda g: tx.update(g, tx.init(g)), 'data', in_axes=(0,),
      out_axes=None)(whole)
    helpers.assert_close((update, state), (expected, wanted), 1e-5,
                         of_largest=1e-5)

  def test_random_rules_treat_what_is_common_alike(self):
    tx = aggregation.aggregate_by_sign_dropout(
      'data', key=jax.random.key(0), layout=SHARDED)
    grads = {'kernel': jnp.float32(RNG.normal(size=(8, 5, 3))),
             'bias': jnp.repeat(jnp.float32(RNG.normal(size=(4, 9))), 2, 0)}
    like = jax.tree.map(lambda g: g[0], grads)
    update, _ = gradiv.map_workers(
      lambda g, s: tx.update(g, s), ('data', 'model'), in_axes=(0, None),
      out_axes=(0, None), devices=jax.devices()[:4])(grads, tx.init(like))
    for row in update['bias'][1:]:
      np.testing.assert_array_equal(row, update['bias'][0])
    self.assertTrue((update['kernel'][0] != update['kernel'][1]).any())

  def test_length_is_that_of_the_whole_gradient(self):
    """Each shard could be squared; their sum could not."""
    grads = {'kernel': jnp.ones((8, 4)), 'bias': jnp.ones((8, 2))}
    grads['kernel'] = grads['kernel'].at[:2, 0].set(6e16)
    for rule in (gradiv.aggregate_by_weights(
                   weightings.krum(0), 'data', layout=ALL_SHARDED),
                 gradiv.aggregate_by_mean('data', layout=ALL_SHARDED)):
      update, state = gradiv.map_workers(
        lambda g, s: rule.update(g, s), ('data', 'model'), in_axes=(0, None),
        out_axes=(0, None), devices=jax.devices()[:4])(grads, rule.init(
          jax.tree.map(lambda g: g[0], grads)))
      self.assertEqual(int(state.num_left_out), 1)
      np.testing.assert_allclose(update['kernel'], 1, 1e-6)

  def test_a_shard_that_is_not_finite_leaves_the_worker_out(self):
    grads = jnp.float32(RNG.normal(size=(8, 9))).at[5, 2].set(jnp.nan)
    tx = gradiv.aggregate_by_median('data', layout=ALL_SHARDED)
    update, state = gradiv.map_workers(
      lambda g, s: tx.update(g, s), ('data', 'model'), in_axes=(0, None),
      out_axes=(0, None), devices=jax.devices()[:4])(
        grads, tx.init(grads[0]))
    expected = np.median(np.delete(grads.reshape(4, 18), 2, 0), 0)
    np.testing.assert_allclose(
      np.asarray(update)[:2].ravel(), expected, 1e-6)
    self.assertEqual(int(state.num_left_out), 1)


class ExclusionTest(parameterized.TestCase):

  @parameterized.parameters(
    (gradiv.aggregate_by_weights(weightings.krum(3), 'workers'),),
    (gradiv.aggregate_by_weights(
      weightings.geometric_median(), 'workers'),),
    (gradiv.aggregate_by_weights(weightings.minimum_diameter(3), 'workers'),),
    (gradiv.aggregate_by_weights(
      weightings.nearest_neighbor_mixing(3), 'workers'),),
    (gradiv.aggregate_by_agreement(
      1., 'workers', combine='leave_one_out'),),
    (aggregation.aggregate_by_bulyan(0, 'workers'),))
  @pytest.mark.slow
  def test_lengths_at_the_edge_of_float32(self, tx):
    """Whether used or left out, sums and differences never overflow."""
    for length in (1e15, 6e16, 1e17, 1.8e19):
      grads = np.float32(1 + 0.1 * RNG.normal(size=(9, 4)))
      grads[:3, 0] = length, -length, -length
      update, state = run(tx, grads)
      self.assertTrue(np.isfinite(update).all(), length)
      self.assertEqual(int(state.num_left_out), 3 * (length > 7e16))
      if state.num_left_out:
        self.assertLess(np.abs(update).max(), 2)

if __name__ == '__main__':
  absltest.main()
