"""Wrong arguments are refused where they are known, and named."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv import (
  aggregation,
  compression,
  decentralized,
  perturbations,
  scaling,
  staleness,
  weightings,
)
from tests import helpers
from tests.contract import drive, table

# Without a state of their own, or not checked.
ANY_STATE = {
  'skip_zero_updates', 'scale_by_staleness', 'keep_top_k', 'keep_signs'}
# Those whose state holds trees like the parameters.
WITH_TREES = {
  'feedback_of_top_k', 'mix_by_choco', 'mix_by_exact_diffusion',
  'mix_by_gradient_tracking', 'mix_by_decentlam', 'mix_by_relay',
  'mix_by_outer_step', 'accumulate_by_agreement', 'accumulate_moments',
  'precondition_langevin', 'delay_by_worker'}
LAYER = lambda path: path[-1].key == 'layer'
# All that draw.
KEYED = (
  lambda key: gradiv.drop_updates(0.5, key=key),
  lambda key: gradiv.add_langevin_noise(0.1, key=key),
  lambda key: gradiv.quantize_updates(2, key=key),
  lambda key: perturbations.precondition_langevin(0.1, key=key),
  lambda key: gradiv.aggregate_by_quantized_mean(8, 'w', key=key),
  lambda key: compression.aggregate_by_low_rank(1, 'w', key=key),
  lambda key: aggregation.aggregate_by_sign_dropout('w', key=key),
  lambda key: gradiv.aggregate_by_weights(weightings.pcgrad(), 'w', key=key),
  lambda key: staleness.delay_updates(staleness.Drawn((0.5, 0.5)), key=key))


class RefusedTest(parameterized.TestCase):

  @parameterized.parameters(
    ('num_trimmed', lambda: gradiv.aggregate_by_trimmed_mean(0.1, 'w')),
    ('num_byzantine', lambda: aggregation.aggregate_by_bulyan(0.2, 'w')),
    ('num_micro_steps', lambda: gradiv.accumulate_by_agreement(0.9, 2.5)),
    ('num_micro_steps',
     lambda: gradiv.accumulate_by_agreement(0.9, 1)),
    ('num_anchors', lambda: gradiv.aggregate_by_agreement(
      0.9, 'w', num_anchors=1.5)),
    ('num_stddevs', lambda: gradiv.aggregate_by_agreement(
      0.9, 'w', num_stddevs=np.nan)),
    ('max_cosine_distance', lambda: gradiv.aggregate_by_agreement('a', 'w')),
    ('max_cosine_distance',
     lambda: weightings.max_neighbors(lambda count: 1.0)),
    ('threshold', lambda: gradiv.aggregate_by_sign_agreement(1.5, 'w')),
    ('threshold', lambda: gradiv.aggregate_by_sign_agreement((0.5,), 'w')),
    ('decay', lambda: gradiv.track_moments(
      'w', batch_size=1, decay=np.array([0.5, 0.9]))),
    ('mixing_matrix', lambda: gradiv.mix_by_gossip('ring', 'w')),
    ('combine', lambda: gradiv.aggregate_by_agreement(
      0.9, 'w', combine=np.ones(2))),
    ('fn', lambda: weightings.stateless(3)),
    ('then', lambda: weightings.nearest_neighbor_mixing(1, 'krum')),
    ('then', lambda: weightings.cr_mogm(None)),
    ('weighting', lambda: gradiv.aggregate_by_weights('krum', 'w')),
    ('inner', lambda: gradiv.skip_zero_updates(3)),
    ('inner', lambda: gradiv.accumulate_moments(2, batch_size=1, inner=0)),
    ('compressor', lambda: gradiv.with_error_feedback(None)),
    ('compressor', lambda: decentralized.mix_by_choco(
      table.RING, 'w', 'top', consensus_step=0.5)),
    ('outer', lambda: decentralized.mix_by_outer_step(None, 2, 'w')),
    ('delay', lambda: staleness.with_staleness(2, optax.identity())),
    ('track', lambda: gradiv.scale_by_diversity(
      None, optax.identity(), batch_size=1, scale=2, learning_rate=0.1)),
    ('key', lambda: aggregation.aggregate_by_sign_dropout('w', key=None)),
    ('key', lambda: gradiv.aggregate_by_weights(
      weightings.pcgrad(), 'w')),
    ('num_workers', lambda: gradiv.aggregate_by_weights(
      weightings.mean(), 'w', num_workers=2.5)),
    ('extra', lambda: gradiv.aggregate_by_weights(
      weightings.centered_clipping(1.0), 'w', extra='momentum')),
    ('radius', lambda: weightings.centered_clipping(float('inf'))),
    ('power', lambda: weightings.krum(0, power=float('inf'))),
    ('axis_name', lambda: gradiv.skip_zero_updates(
      optax.identity(), axis_name='')),
    ('layout', lambda: gradiv.aggregate_by_mean('w', layout='x')),
    ('mean_over', lambda: gradiv.Layout(mean_over=3)),
    ('mean_over', lambda: gradiv.aggregate_by_median(
      'w', layout=gradiv.Layout(mean_over='w'))),
    ('groups', lambda: gradiv.Layout(groups='layer')),
    ('groups', lambda: gradiv.aggregate_by_median(
      'w', layout=table.BY_LAYER)),
    ('sharded_over', lambda: gradiv.Layout(is_sharded=LAYER)),
    ('rate', lambda: gradiv.drop_updates(1.0, key=table.KEY)),
    ('stddev', lambda: gradiv.add_langevin_noise(-1.0, key=table.KEY)),
    ('num_levels', lambda: gradiv.quantize_updates(0.5, key=table.KEY)),
    ('num_bits', lambda: gradiv.aggregate_by_quantized_mean(
      7, 'w', key=table.KEY)),
    ('rank', lambda: compression.aggregate_by_low_rank(0, 'w', key=table.KEY)),
    ('fraction', lambda: gradiv.keep_top_k(0.0)),
    ('batch_size', lambda: gradiv.track_moments('w', batch_size=-1)),
    ('decay', lambda: gradiv.track_moments('w', batch_size=1, decay=1.0)),
    ('staleness', lambda: gradiv.delay_updates(-1)),
    ('strength', lambda: staleness.compensate_delay(-1.0)),
    ('mixing_matrix', lambda: gradiv.mix_by_gossip(np.ones((2, 2)), 'w')),
    ('order', lambda: gradiv.mix_by_gossip(table.RING, 'w', order='abc')),
    ('period', lambda: gradiv.local_sgd(0, 'w')),
    ('num_fragments', lambda: gradiv.diloco(4, 'w', num_fragments=3)),
    ('momentum', lambda: decentralized.mix_by_slow_momentum(2, 'w',
     momentum=1.0)),
    ('consensus_step', lambda: decentralized.mix_by_choco(
      table.RING, 'w', optax.identity(), consensus_step=2.0)))
  def test_at_construction(self, argument, make):
    with self.assertRaisesRegex(ValueError, argument):
      make()

  @parameterized.parameters(
    ('weighting', lambda: gradiv.aggregate_by_weights('krum', 'w')),
    ('weighting', lambda: gradiv.aggregate_by_weights(None, 'w')),
    ('weighting=krum: call it', lambda: gradiv.aggregate_by_weights(
      weightings.krum, 'w')),
    ('then', lambda: weightings.nearest_neighbor_mixing(1, then='krum')),
    ('then', lambda: weightings.cr_mogm(then=weightings.mgda)),
    ('fn', lambda: weightings.stateless(None)),
    ('inner', lambda: gradiv.skip_zero_updates(optax.sgd)),
    ('inner', lambda: gradiv.accumulate_moments(2, inner=3)),
    ('compressor', lambda: gradiv.with_error_feedback(None)),
    ('compressor', lambda: decentralized.mix_by_choco(
      table.RING, 'w', None, consensus_step=0.5)),
    ('outer', lambda: decentralized.mix_by_outer_step(None, 2, 'w')),
    ('fragment_of', lambda: gradiv.diloco(2, 'w', fragment_of=1)),
    ('schedule', lambda: decentralized.mix_by_extra(
      table.RING, 'w', schedule=0.1)),
    ('delay', lambda: staleness.with_staleness(None, optax.sgd(1.0))),
    ('track', lambda: scaling.scale_by_diversity(
      None, optax.sgd(1.0), batch_size=4.0, scale=8.0)),
    ('num_examples', lambda: gradiv.track_moments(
      'w', batch_size=8, num_examples=4)),
    ('batch_size', lambda: gradiv.track_moments('w', batch_size=np.inf)))
  def test_what_is_no_transformation_weighting_or_function(self, text, make):
    with self.assertRaisesRegex(ValueError, text):
      make()

  @parameterized.named_parameters(*table.named([
    row for row in table.FUNCTIONS if 'axis_name' in row.arguments('w')]))
  @pytest.mark.slow
  def test_an_axis_that_is_not_mapped(self, row):
    params, tx = drive.params(), optax.with_extra_args_support(row.make('w'))
    state = tx.init(params)

    def update(_):
      return tx.update(params, state, params, **row.needs(params))

    with self.assertRaisesRegex(ValueError, r"axis_name='w'.*\('data',\)"):
      jax.eval_shape(jax.vmap(update, axis_name='data'), jnp.ones(2))

  @parameterized.named_parameters(*table.named([
    row for row in table.FUNCTIONS if row.name not in ANY_STATE]))
  def test_the_state_of_another_transformation(self, row):
    params, tx = drive.params(), optax.with_extra_args_support(row.make())
    with self.assertRaisesRegex(ValueError, 'state of type EmptyState'):
      tx.update(params, optax.EmptyState(), params, **row.needs(params))

  @parameterized.named_parameters(*table.named([
    row for row in table.FUNCTIONS if row.name in WITH_TREES]))
  @pytest.mark.slow
  def test_the_state_of_other_parameters(self, row):
    params, tx = drive.params(), optax.with_extra_args_support(row.make())
    state = tx.init({'other': jnp.ones(2)})

    def update(_):
      return tx.update(params, state, params, **row.needs(params))

    with self.assertRaisesRegex(ValueError, r'state\.\w+.*call init'):
      jax.eval_shape(jax.vmap(update, axis_name='workers'),
                     jnp.ones(table.WORKERS))

  @parameterized.parameters(
    (None,), (7,), ('key',), (np.zeros(2, np.int64),), (np.zeros(2),),
    (np.zeros(3, np.uint32),), (np.zeros((3, 2), np.uint32),))
  def test_what_is_no_key(self, key):
    for make in KEYED:
      with self.assertRaisesRegex(ValueError, 'key'):
        make(key)

  def test_keys_of_both_styles_are_taken_and_several_are_not(self):
    for make in KEYED:
      make(jax.random.key(0))
      make(jax.random.key(0, impl='rbg'))
      make(jax.random.PRNGKey(0))
      for keys in (jax.random.key(0), jax.random.PRNGKey(0)):
        with self.assertRaisesRegex(ValueError, 'key'):
          make(jax.random.split(keys, 3))

  @parameterized.parameters(
    {}, {'anchor': {'b': jnp.ones(2)}}, {'anchor': {'a': jnp.ones(3)}})
  def test_an_extra_tree_is_missing_or_unlike_the_gradient(self, **given):
    tx = gradiv.aggregate_by_weights(
      weightings.centered_clipping(1.0), 'workers', extra=('anchor',))
    grads = {'a': np.ones((4, 2), np.float32)}
    with self.assertRaisesRegex(ValueError, 'anchor'):
      helpers.on_workers(
        lambda g, s: tx.update(g, s, **given), grads,
        tx.init({'a': jnp.ones(2)}))

  def test_one_weight_for_each_worker(self):
    with self.assertRaisesRegex(ValueError, 'weights'):
      helpers.on_workers(
        lambda g, w: aggregation.combine(g, w, 'workers'), np.ones((4, 2), 'f'),
        jnp.ones(2))


class DtypesTest(parameterized.TestCase):

  def test_the_last_update_keeps_the_dtype_of_the_parameters(self):
    tx = gradiv.aggregate_by_weights(
      weightings.centered_clipping(1.0), 'workers')
    step = jax.vmap(lambda g, s: tx.update(g, s)[1], (0, None), None,
                    axis_name='workers')
    grads, state = jnp.ones((4, 3), jnp.bfloat16), tx.init(jnp.zeros(3))
    self.assertEqual(
      jax.eval_shape(step, grads, state).last.dtype, jnp.float32)

  @parameterized.named_parameters(
    ('mean', lambda: gradiv.aggregate_by_mean('workers')),
    ('median', lambda: gradiv.aggregate_by_median('workers')),
    ('gram', lambda: gradiv.aggregate_by_weights(
      weightings.geometric_median(), 'workers')))
  def test_float64_leaves_out_what_float32_cannot_square(self, make):
    with helpers.double_precision():
      tx, grads = make(), np.random.default_rng(0).normal(size=(4, 9))
      grads[0, 0] = 1e25
      step = jax.jit(jax.vmap(lambda g: tx.update(g, tx.init(g)),
                              axis_name='workers', out_axes=None))
      update, state = step(grads)
      self.assertEqual(int(state.num_left_out), 1)
      self.assertLess(float(jnp.abs(update).max()), 9)


if __name__ == '__main__':
  absltest.main()
