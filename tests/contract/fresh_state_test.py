"""A state before the first step: complete, of its own, and laid out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.contract import drive, table


def buffers_of(tree):
  """List the addresses of what a tree holds, the bits of keys included."""
  return [x.unsafe_buffer_pointer() for x in jax.tree.leaves(tree)
          if isinstance(x, jax.Array) and x.size]


@functools.cache
def fresh(row):
  """Return the transformation, and a state that tests only look at."""
  tx = row.make()
  return tx, tx.init(drive.params())


class FreshStateTest(parameterized.TestCase):

  @parameterized.named_parameters(*table.named())
  def test_no_two_leaves_share_a_buffer(self, row):
    params = drive.params()
    own = buffers_of(row.make().init(params))
    self.assertLen(set(own), len(own))
    # A donated state takes its buffers with it: none may be the caller's.
    theirs = buffers_of((params, row.options, table.KEY))
    self.assertNoCommonElements(own, theirs)

  @parameterized.named_parameters(*table.named())
  def test_holds_arrays_alone_and_none_without_elements(self, row):
    _, state = fresh(row)
    for leaf in jax.tree.leaves(state):
      self.assertIsInstance(leaf, jax.Array)
      self.assertGreater(leaf.size, 0)  # no checkpoint can hold such a leaf
    placed = jax.device_put(state, jax.devices()[-1])
    self.assertEqual(drive.specs(placed), drive.specs(state))

  @parameterized.named_parameters(*table.named())
  def test_init_takes_shapes_and_can_be_traced(self, row):
    (tx, state), params = fresh(row), drive.params()
    known = drive.specs(state)
    self.assertEqual(drive.specs(jax.eval_shape(tx.init, params)), known)
    shapes = jax.eval_shape(lambda: params)
    self.assertEqual(drive.specs(tx.init(shapes)), known)

  @parameterized.named_parameters(*table.named())
  def test_what_is_like_a_parameter_is_laid_out_like_it(self, row):
    mesh = jax.make_mesh((8,), ('x',), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec('x'))
    params = {'layer': {
      'kernel': jax.device_put(jnp.ones((16, 5)), sharding),
      'bias': jax.device_put(jnp.ones(24), sharding)}}
    for path, leaf in jax.tree_util.tree_leaves_with_path(
        row.make().init(params)):
      for p in jax.tree.leaves(params):
        if leaf.shape[max(leaf.ndim - p.ndim, 0):] == p.shape:
          shard = leaf.sharding.shard_shape(leaf.shape)
          self.assertEqual(np.prod(shard), leaf.size // 8,
                           jax.tree_util.keystr(path))

  @parameterized.named_parameters(*table.named())
  def test_map_params_finds_what_is_like_the_parameters(self, row):
    params = drive.params()
    tx, mapped = optax.chain(row.make(), optax.adam(0.1)), []

    is_masked = lambda x: isinstance(x, optax.MaskedNode)

    def like(leaf, param):
      if not is_masked(leaf):
        mapped.append(leaf)
        self.assertEqual(leaf.shape, param.shape)  # so its PartitionSpec fits
      return leaf

    state = tx.init(params)
    result = optax.tree.map_params(
      tx, like, state, params, is_leaf=is_masked)
    self.assertEqual(jax.tree.structure(result), jax.tree.structure(state))
    self.assertGreaterEqual(len(mapped), 2 * len(jax.tree.leaves(params)))


if __name__ == '__main__':
  absltest.main()
