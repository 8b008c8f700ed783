"""Groups return before the last has arrived, and nothing else changes."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import Mesh, PartitionSpec as P

import gradiv
from gradiv import weightings
from gradiv.aggregation._exchange import buckets, early_groups, membership
from tests import helpers, waits
from tests.gradiv.aggregation import overlap_test

KEY = jax.random.key(0)
BY_LAYER = gradiv.Layout(groups=gradiv.by_layer)
SHARDED = gradiv.Layout(
  groups=gradiv.by_layer, sharded_over='model',
  is_sharded=lambda path: path[-1].key == 'w')
RULES = {
  'mean': lambda layout: gradiv.aggregate_by_weights(
    weightings.mean(), 'workers', layout=layout),
  'agreement': lambda layout: gradiv.aggregate_by_agreement(
    1., 'workers', layout=layout),
  'window_and_key': lambda layout: gradiv.aggregate_by_agreement(
    1., 'workers', key=KEY, window=3, layout=layout),
  'krum': lambda layout: gradiv.aggregate_by_weights(
    weightings.krum(1), 'workers', layout=layout),
  'adacons': lambda layout: gradiv.aggregate_by_weights(
    weightings.adacons(), 'workers', num_workers=4, layout=layout),
  'clipping': lambda layout: gradiv.aggregate_by_weights(
    weightings.centered_clipping(2.), 'workers', layout=layout),
}


def sample():
  """Gradients of four workers; the layers have other sizes and dtypes."""
  rng = np.random.default_rng(3)
  draw = lambda *shape: rng.normal(0.3, 1, (4, *shape)).astype('f')
  grads = {f'layer_{i}': {'w': draw(9 + i, 5), 'b': draw(5)}
           for i in (0, 1, 2, 10)}
  grads['layer_1']['b'] = grads['layer_1']['b'].astype(jnp.bfloat16)
  return grads


def spoil(grads, bad):
  """Put a number into one element of a worker; or into all of two workers."""
  grads = jax.tree.map(np.copy, grads)
  if bad == 'two workers':
    for leaf in jax.tree.leaves(grads):
      leaf[1:3] = np.nan
  elif bad is not None:
    grads['layer_2']['w'][2, 3, 3] = bad
  return grads


def steps(tx, layout, check_vma):
  """Compile two steps of four workers, whose layers may have two shards."""
  mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ('workers', 'model'))
  cut = lambda path, _: P('workers', *['model'] * layout.shards(path))
  like = jax.tree.map(lambda x: x[:, :8] if x.ndim == 3 else x, sample())
  specs = jax.tree_util.tree_map_with_path(cut, like)
  state = tx.init(jax.tree.map(lambda x: x[0], like))

  def two_steps(grads, state):
    grads = jax.tree.map(lambda x: x[0], grads)
    first, state = tx.update(grads, state)
    second, state = tx.update(jax.tree.map(lambda g: 2 * g, grads), state)
    return (first, second), state

  out = jax.tree_util.tree_map_with_path(
    lambda path, _: P(*['model'] * layout.shards(path)), like)
  mapped = jax.jit(jax.shard_map(
    two_steps, mesh=mesh, in_specs=(specs, P()),
    out_specs=((out, out), P()), check_vma=check_vma))
  return lambda grads: mapped(jax.tree.map(
    lambda x: x[:, :8] if x.ndim == 3 else x, grads), state)


class SameBitsTest(parameterized.TestCase):
  """Beside an exchange that decides all groups when the last has arrived."""

  def both_ways(self, make, layout, check_vma):
    bads = None, np.nan, np.inf, 1e30, 'two workers'
    run = lambda step: [step(spoil(sample(), bad)) for bad in bads]
    with mock.patch.object(early_groups, 'LEAST', 1):
      found = run(steps(make(layout), layout, check_vma))
    with mock.patch.object(early_groups, 'pays', lambda _: False):
      wanted = run(steps(make(layout), layout, check_vma))
    left_out = [int(state.num_left_out) for _, state in found]
    self.assertEqual(left_out, [0, 2, 2, 2, 4])
    return found, wanted

  def test_whoever_is_left_out(self):
    helpers.assert_same(*self.both_ways(
      RULES['mean'], BY_LAYER, check_vma=True))

  @parameterized.parameters(
    ('window_and_key', BY_LAYER, True), ('agreement', SHARDED, True),
    ('agreement', SHARDED, False), ('krum', BY_LAYER, True),
    ('clipping', BY_LAYER, True))
  @pytest.mark.slow
  def test_of_other_rules_and_layouts(self, rule, layout, check_vma):
    helpers.assert_same(*self.both_ways(RULES[rule], layout, check_vma))

  @pytest.mark.slow
  def test_a_formula_may_be_compiled_to_other_roundings(self):
    # One program decides four groups at once, the other each by itself.
    found, wanted = self.both_ways(RULES['adacons'], BY_LAYER, check_vma=True)
    helpers.assert_close(found, wanted, 5e-7, of_largest=5e-7)


class ProgramTest(absltest.TestCase):

  def test_late_layers_return_first(self):
    """Each waits for the backward pass down to its own layer, and no more."""
    text = overlap_test.program(gradiv.aggregate_by_agreement(
      0.97, 'workers', layout=BY_LAYER))
    waited = waits.products_waited_for(text, 'all-gather')
    # Two leaves a layer; the last of four layers is the first to return.
    depth = overlap_test.DEPTH
    self.assertLen(waited, 2 * depth)
    by_layer = np.unique(waited)
    self.assertLen(by_layer, depth)
    # One more layer is two products of the pass, and two Gram matrices.
    self.assertEqual(np.diff(by_layer).tolist(), (depth - 1) * [4])
    # Forward, one product back, two Gram matrices, and the weighted sum.
    self.assertLessEqual(by_layer[0], depth + 4)
    self.assertLess(by_layer[0], overlap_test.NUM_PRODUCTS)


class WavesTest(parameterized.TestCase):

  @staticmethod
  def waves(tree, groups=gradiv.by_layer):
    layout = gradiv.Layout(groups=groups)
    plan = buckets.plan(tree, membership.Participants.of('workers', layout))
    names = gradiv.group_names(tree, groups)
    return [[names[group] for group in wave.groups]
            for wave in early_groups.waves_of(plan)]

  def test_the_last_layer_first_and_no_more_than_eight(self):
    tree = {f'layer_{i}': {'w': jax.ShapeDtypeStruct((300, 400), jnp.float32)}
            for i in range(24)}
    waves = self.waves(tree)
    self.assertEqual(
      sum(waves, []), [f'layer_{i}' for i in reversed(range(24))])
    self.assertEqual([len(wave) for wave in waves], 8 * [3])

  def test_small_layers_are_decided_together(self):
    tree = {f'layer_{i}': {'w': jnp.ones((9, 9))} for i in range(5)}
    self.assertLen(self.waves(tree), 1)

  def test_a_group_of_first_and_last_layers_is_the_last(self):
    leaf = jax.ShapeDtypeStruct((300, 400), jnp.float32)
    tree = {f'layer_{i}': leaf for i in range(4)}
    ends = lambda path: 'ends' if path[0].key[-1] in '03' else path[0].key
    self.assertEqual(
      self.waves(tree, ends), [['layer_2'], ['layer_1'], ['ends']])


if __name__ == '__main__':
  absltest.main()
