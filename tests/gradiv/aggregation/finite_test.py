"""Who takes part, whatever the layout and however long the gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized
from jax.sharding import Mesh, PartitionSpec as P

import gradiv
from gradiv import weightings
from tests import helpers

RNG = np.random.default_rng(9)
KERNEL = lambda path: path[-1].key == 'kernel'


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
    lambda **kw: gradiv.aggregate_by_geometric_median('data', **kw),
    lambda **kw: gradiv.aggregate_by_median('data', **kw),
    lambda **kw: gradiv.aggregate_by_bulyan(0, 'data', **kw),
    lambda **kw: gradiv.aggregate_by_smooth_sign_agreement(0.2, 'data', **kw),
    lambda **kw: gradiv.aggregate_by_weights(
      weightings.norm_clipping(2.), 'data', **kw),
    lambda **kw: gradiv.aggregate_by_mean('data', **kw)))
  def test_in_a_shard_map_of_ones_own(self, check_vma, rule):
    grads = sharded_sample()
    update, state = run_sharded(
      rule(sharded_over='model', is_sharded=KERNEL), grads, check_vma)
    whole = {'kernel': grads['kernel'].reshape(4, 10, 3),
             'bias': grads['bias']}
    tx = rule()
    expected, wanted = gradiv.map_workers(
      lambda g: tx.update(g, tx.init(g)), 'data', in_axes=(0,),
      out_axes=None)(whole)
    helpers.assert_close((update, state), (expected, wanted), 1e-5,
                         of_largest=1e-5)

  def test_random_rules_treat_what_is_common_alike(self):
    tx = gradiv.aggregate_by_sign_dropout(
      'data', key=jax.random.key(0), sharded_over='model', is_sharded=KERNEL)
    grads = {'kernel': jnp.float32(RNG.normal(size=(8, 5, 3))),
             'bias': jnp.repeat(jnp.float32(RNG.normal(size=(4, 9))), 2, 0)}
    like = jax.tree.map(lambda g: g[0], grads)
    update, _ = gradiv.map_workers(
      lambda g, s: tx.update(g, s), ('data', 'model'), in_axes=(0, None),
      out_axes=(0, None), devices=jax.devices()[:4])(grads, tx.init(like))
    for row in update['bias'][1:]:
      np.testing.assert_array_equal(row, update['bias'][0])
    self.assertTrue((update['kernel'][0] != update['kernel'][1]).any())

  def test_too_long_only_as_a_whole(self):
    """Each shard could be squared; their sum could not."""
    grads = {'kernel': jnp.ones((8, 4)), 'bias': jnp.ones((8, 2))}
    grads['kernel'] = grads['kernel'].at[:2, 0].set(6e16)
    for rule in (gradiv.aggregate_by_krum(0, 'data', sharded_over='model'),
                 gradiv.aggregate_by_geometric_median(
                   'data', sharded_over='model'),
                 gradiv.aggregate_by_mean('data', sharded_over='model')):
      update, state = gradiv.map_workers(
        lambda g, s: rule.update(g, s), ('data', 'model'), in_axes=(0, None),
        out_axes=(0, None), devices=jax.devices()[:4])(grads, rule.init(
          jax.tree.map(lambda g: g[0], grads)))
      self.assertEqual(int(state.num_left_out), 1)
      np.testing.assert_allclose(update['kernel'], 1, 1e-6)

  def test_standing_still_is_decided_by_all_slices(self):
    chain = lambda sharded: optax.chain(
      gradiv.aggregate_by_agreement(1., 'workers', sharded=sharded),
      gradiv.skip_zero_updates(
        optax.sgd(1., momentum=0.9),
        axis_name='workers' if sharded else None))

    def both(gs):
      def steps(tx, start):
        state, total = tx.init(start), start
        for g in gs:
          updates, state = tx.update(g, state)
          total = total + updates
        return total

      sliced = steps(chain(True), gradiv.slice_leaves(jnp.zeros(4), 'workers'))
      return (gradiv.gather_leaves(sliced, jnp.zeros(4), 'workers'),
              steps(chain(False), jnp.zeros(4)))

    # The second step moves the first slice alone; the third nothing.
    gs = jnp.float32([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    sliced, whole = gradiv.map_workers(
      both, 'workers', in_axes=(0,), out_axes=None)(jnp.stack([gs, gs]))
    np.testing.assert_allclose(sliced, whole, 1e-6)
    np.testing.assert_allclose(whole, [-2.9, -2.9, -1.9, -1.9], 1e-6)


class AdmissionTest(parameterized.TestCase):

  @parameterized.parameters(
    (gradiv.aggregate_by_krum(3, 'workers'),),
    (gradiv.aggregate_by_geometric_median('workers'),),
    (gradiv.aggregate_by_weights(weightings.minimum_diameter(3), 'workers'),),
    (gradiv.aggregate_by_weights(
      weightings.nearest_neighbor_mixing(3), 'workers'),),
    (gradiv.aggregate_by_agreement(
      1., 'workers', combine='leave_one_out'),),
    (gradiv.aggregate_by_bulyan(0, 'workers'),))
  def test_lengths_at_the_edge_of_float32(self, tx):
    """Admitted or left out; in no case do sums and differences overflow."""
    for length in (1e15, 6e16, 1e17, 1.8e19):
      grads = np.float32(1 + 0.1 * RNG.normal(size=(9, 4)))
      grads[:3, 0] = length, -length, -length
      update, state = run(tx, grads)
      self.assertTrue(np.isfinite(update).all(), length)
      self.assertEqual(int(state.num_left_out), 3 * (length > 7e16))
      if state.num_left_out:
        self.assertLess(np.abs(update).max(), 2)

  def test_gram_weights_and_combine_by_hand(self):
    """The three steps in public, with a worker that is not finite."""
    grads = np.float32(RNG.normal(size=(5, 30)))
    grads[2, 4] = np.nan
    rest = np.delete(grads, 2, 0)
    for rule in (weightings.mean(), weightings.krum(0), weightings.mgda(),
                 weightings.geometric_median(), weightings.agreement(2.)):
      def by_hand(g, _):
        weights = rule(gradiv.worker_gram(g, 'workers'))
        return gradiv.combine(g, weights, 'workers')

      actual, expected = (helpers.on_workers(by_hand, x)
                          for x in (grads, rest))
      np.testing.assert_allclose(actual, expected, 1e-4, 1e-6)

  def test_a_zero_anchor_does_not_veto(self):
    grads = np.float32([[0, 0], [1, 1], [1, 1.1], [1, .9]])
    update, state = run(gradiv.aggregate_by_agreement(0.5, 'workers'), grads)
    np.testing.assert_allclose(update, [1, 1], 1e-6)
    self.assertEqual(int(state.num_agreed), 3)
    tx = gradiv.accumulate_by_agreement(0.5, num_micro_steps=4)
    state = tx.init(jnp.zeros(2))
    for g in grads:
      update, state = tx.update(g, state)
    np.testing.assert_allclose(update, [1, 1], 1e-6)

  def test_leaving_one_out_does_not_cancel(self):
    for length in (1e3, 1e5, 1e7):
      grads = np.float32([[length, 0], [.3, .4]])
      for tau, agreed in ((0.39, 0), (0.41, 2)):
        for combine in ('running_mean', 'leave_one_out'):
          rule = weightings.agreement(tau, combine=combine)
          weights = rule(grads @ grads.T)
          self.assertEqual(np.count_nonzero(weights), agreed, (length, tau))

  def test_bulyan_with_too_many_absent_is_zero(self):
    grads = np.full((7, 3), np.nan, np.float32)
    grads[0], grads[1] = 99, 1
    update, state = run(gradiv.aggregate_by_bulyan(1, 'workers'), grads)
    np.testing.assert_array_equal(update, 0)
    self.assertEqual(int(state.num_left_out), 5)


if __name__ == '__main__':
  absltest.main()
