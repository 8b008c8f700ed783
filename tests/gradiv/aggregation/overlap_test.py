"""Exchanges start while the backward pass goes on; read off the program."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import absltest, parameterized
from jax import lax
from jax.sharding import Mesh, PartitionSpec as P

import gradiv
from gradiv import aggregation, weightings
from gradiv.aggregation._exchange import buckets, membership
from tests import helpers, waits

WIDTH, DEPTH, ROWS = 256, 4, 4
NUM_PRODUCTS = 3 * DEPTH - 1  # no gradient with respect to the input
KEY = jax.random.key(0)
BY_LAYER = gradiv.Layout(groups=gradiv.by_layer)


def params():
  return {f'layer_{i}': {'w': jnp.zeros((WIDTH, WIDTH)), 'b': jnp.zeros(WIDTH)}
          for i in range(DEPTH)}


def loss(params, x):
  for i in range(DEPTH):
    layer = params[f'layer_{i}']
    x = x + jnp.tanh(x @ layer['w'] + layer['b'][None])
  return jnp.mean((x - 1)**2)


def plain_mean():
  return optax.stateless(
    lambda g, p: jax.tree.map(lambda x: lax.pmean(x, 'workers'), g))


def program(tx):
  """Compile the gradient of a network of four layers, and an aggregation."""
  def step(params, state, x):
    grads = jax.grad(loss)(params, x)
    return tx.update(grads, state, params)

  mesh = Mesh(np.array(jax.devices()), ('workers',))
  state = jax.eval_shape(lambda: tx.init(params()))
  mapped = jax.shard_map(
    step, mesh=mesh, in_specs=(P(), P(), P('workers')), out_specs=P(),
    check_vma=False)
  return jax.jit(mapped).lower(
    jax.eval_shape(params), state, jnp.ones((8 * ROWS, WIDTH))
  ).compile().as_text()


class OverlapTest(parameterized.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.plain = waits.products_waited_for(program(plain_mean()), 'all-reduce')

  def test_the_plain_mean_waits_for_the_leaf_alone(self):
    """Holds the ruler: forward, back to the leaf, and its own product."""
    self.assertEqual(sorted(set(self.plain)), list(range(DEPTH, 2 * DEPTH + 1)))

  def test_an_all_to_all_waits_no_longer(self):
    self.check(lambda: gradiv.aggregate_by_agreement(0.97, 'workers'))

  @parameterized.parameters(
    (lambda: gradiv.aggregate_by_agreement(
      0.97, 'workers', layout=BY_LAYER),),
    (lambda: gradiv.aggregate_by_weights(weightings.krum(1), 'workers'),),
    (lambda: gradiv.aggregate_by_median('workers'),),
    (lambda: aggregation.aggregate_by_bulyan(0, 'workers'),),
    (lambda: gradiv.aggregate_by_quantized_mean(8, 'workers', key=KEY),))
  @pytest.mark.slow
  def test_nor_that_of_any_other_rule(self, make):
    self.check(make)

  def check(self, make):
    found = waits.products_waited_for(program(make()), 'all-to-all')
    self.assertLessEqual(max(found), max(self.plain) + 2)
    self.assertLessEqual(np.median(found), np.median(self.plain) + 2)
    self.assertLess(max(found), NUM_PRODUCTS - 2)

  def test_the_tracked_mean_waits_no_longer(self):
    found = waits.products_waited_for(program(optax.chain(
      gradiv.track_moments('workers', batch_size=ROWS),
      gradiv.aggregate_by_mean('workers'))), 'all-reduce')
    # Those of the gradient itself; two of scalars wait for all of it.
    self.assertEqual(sorted(found)[:len(self.plain)], sorted(self.plain))


class BucketsTest(absltest.TestCase):

  def test_small_leaves_share_with_neighboring_layers_only(self):
    """Twenty layers of a million elements: none waits for all the others."""
    layer = lambda: {'w': jax.ShapeDtypeStruct((1000, 1000), jnp.float32),
                     'b': jax.ShapeDtypeStruct((1000,), jnp.float32)}
    tree = {f'layer_{i}': layer() for i in range(20)}
    plan = buckets.plan(tree, membership.Participants.of('workers'))
    names = [path[0].key for path, _ in
             jax.tree_util.tree_leaves_with_path(tree)]
    layers = [[int(names[span.leaf].removeprefix('layer_'))
               for span in bucket.spans] for bucket in plan.buckets]
    self.assertEqual(sorted(sum(layers, [])), sorted(2 * [*range(20)]))
    self.assertEqual([b[0] for b in layers], sorted(b[0] for b in layers))
    self.assertLessEqual(max(b[-1] - b[0] for b in layers), 1)


class LeftOutTest(parameterized.TestCase):
  """What is left out on arrival leaves no trace, wherever it comes from."""

  @parameterized.parameters(
    (lambda: gradiv.aggregate_by_mean('workers'),),
    (lambda: gradiv.aggregate_by_agreement(1., 'workers', layout=BY_LAYER),))
  def test_one_value_is_as_bad_as_all(self, make):
    self.check(make, 'shard_map')

  @parameterized.product(
    backend=('shard_map', 'vmap', 'pmap'), make=(
      lambda: gradiv.aggregate_by_weights(
        weightings.geometric_median(), 'workers'),
      lambda: aggregation.aggregate_by_sign_majority('workers'),
      lambda: gradiv.aggregate_by_weights(weightings.krum(1), 'workers'),
      lambda: gradiv.aggregate_by_median('workers'),
      lambda: aggregation.aggregate_by_bulyan(0, 'workers'),
      lambda: gradiv.aggregate_by_quantized_mean(8, 'workers', key=KEY)))
  @pytest.mark.slow
  def test_by_other_rules_too(self, backend, make):
    self.check(make, backend)

  def check(self, make, backend):
    """The same bits, whether one value of a worker is not finite or all."""
    rng = np.random.default_rng(0)
    grads = {f'layer_{i}': {'w': rng.normal(0.3, 1, (8, 9, 5)).astype('f'),
                            'b': rng.normal(0.3, 1, (8, 5)).astype('f')}
             for i in range(3)}
    tx, runs = make(), []
    state = tx.init(jax.tree.map(lambda g: g[0], grads))
    for bad in (None, np.nan, np.inf, 1e30):
      spoilt = jax.tree.map(np.copy, grads)
      if bad is None:
        for leaf in jax.tree.leaves(spoilt):
          leaf[2] = np.nan
      else:
        spoilt['layer_1']['w'][2, 3, 3] = bad
      runs.append(helpers.step_of(tx, backend=backend)(spoilt, state))
      helpers.assert_same(runs[-1], runs[0])
    self.assertTrue(all(
      np.isfinite(x).all() for x in jax.tree.leaves(runs[0][0])))


if __name__ == '__main__':
  absltest.main()
