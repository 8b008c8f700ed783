"""Tests of the way to disk and back: each leaf bit for bit, or refused."""

import contextlib
import io
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

from experiments.engine import checkpoints


def make_state(fill=1.0):
  """Return a state with all that a state may hold."""
  params = {
      'dense': {'kernel': jnp.arange(6.0).reshape(2, 3) * fill,
                'bias': jnp.full(3, fill, jnp.bfloat16)},
      "od/d. 'näme%": {'scale': jnp.float32(fill)},
  }
  tx = optax.chain(optax.clip(1.0), optax.adam(0.1), optax.add_noise(
      eta=0.1, gamma=0.5, key=jax.random.key(3)))
  return {
      'params': params,
      'opt_state': tx.init(params),
      'keys': jax.random.split(jax.random.key(0, impl='rbg'), 2),
      'raw_key': jax.random.PRNGKey(1),
      'flags': jnp.array([True, False]),
      'counts': (jnp.int8(-3), jnp.uint32(2 ** 32 - 1), np.int64(2 ** 60)),
      'numpy': np.array([np.nan, -0.0, 5e-324]),
      'none': None,
      'empty': ((), {}, jnp.zeros((0, 4), jnp.bfloat16)),
      'no_keys': jax.random.split(jax.random.key(0), 1)[:0],
      'python': [3, 2.5, True],
  }


def tiny(fill=1.0):
  return {'params': {'w': np.full(4, fill, np.float32)}, 'n': np.int32(3)}


class LeavesTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.store = checkpoints.Checkpoints(pathlib.Path(folder.name))
    self.stderr = io.StringIO()
    self.enterContext(contextlib.redirect_stderr(self.stderr))

  def assert_equal_bits(self, tree, other):
    self.assertEqual(jax.tree.structure(tree), jax.tree.structure(other))
    for x, y in zip(jax.tree.leaves(tree), jax.tree.leaves(other)):
      self.assertIs(type(x), type(y))
      if hasattr(x, 'dtype') and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        self.assertEqual(jax.random.key_impl(x), jax.random.key_impl(y))
        x, y = jax.random.key_data(x), jax.random.key_data(y)
      x, y = np.asarray(x), np.asarray(y)
      self.assertEqual((x.dtype, x.shape), (y.dtype, y.shape))
      self.assertEqual(x.tobytes(), y.tobytes())

  def test_every_kind_of_leaf_comes_back_bit_for_bit(self):
    state = make_state(1 / 3)
    meta = {'config': {'seed': 1, 'rates': [0.1, None]}, 'epoch': 2}
    self.store.save(7, state, meta)
    step, restored, read_meta = self.store.restore(make_state(0.0))
    self.assertEqual((step, read_meta), (7, meta))
    self.assert_equal_bits(state, restored)
    self.assertEqual(self.stderr.getvalue(), '')

  def test_shapes_are_template_enough(self):
    state = {k: make_state()[k] for k in ('params', 'opt_state', 'keys')}
    self.store.save(1, state, {})
    template = jax.eval_shape(lambda: state)
    self.assert_equal_bits(state, self.store.restore(template).state)

  @parameterized.parameters((jnp.ones(3),), (jnp.float32(2),), ((),), ({},))
  def test_small_trees(self, state):
    self.store.save(1, state, {})
    self.assert_equal_bits(state, self.store.restore(state).state)

  def test_restored_arrays_feed_every_backend(self):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), 'workers')
    spec = jax.sharding.PartitionSpec('workers')
    sharding = jax.sharding.NamedSharding(mesh, spec)
    state = {'w': jax.device_put(jnp.arange(16.0).reshape(8, 2), sharding)}
    self.store.save(1, state, {})
    w = self.store.restore(state).state['w']
    f = lambda x: x - jax.lax.pmean(x, 'workers')
    wanted = np.asarray(w) - np.asarray(w).mean(0)
    mapped = jax.jit(jax.shard_map(
        f, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False))
    for run in (jax.vmap(f, axis_name='workers'), mapped,
                jax.pmap(f, axis_name='workers')):
      np.testing.assert_allclose(run(w), wanted)
    # Donated memory must not be that of anything else.
    jax.jit(lambda x: x + 1, donate_argnums=0)(w)
    self.assert_equal_bits(state['w'] + 0, self.store.restore(state).state['w'])

  @parameterized.parameters(
      ({'params': {'w': np.ones(5, np.float32)}, 'n': np.int32(1)},
       r"state\['params'\]\['w'\]: float32\[5\] is wanted, float32\[4\] is "),
      ({'params': {'w': np.ones(4)}, 'n': np.int32(1)},
       r"\['w'\]: float64\[4\] is wanted, float32\[4\] is stored"),
      ({'params': {'v': np.ones(4, np.float32)}, 'n': np.int32(1)},
       r"\['v'\].* nothing is stored; .*\['w'\]: .* nothing is wanted"),
      ({'params': {'w': np.ones(4, np.float32)}},
       r"state\['n'\]: int32\[\] is stored, nothing is wanted"),
      ({**tiny(), 'more': [np.ones(1)] * 9}, r'\[4\].*; and 4 more$'),
      ({**tiny(), 'n': jax.random.key(0)}, r"key<fry>\[\] is wanted, int32"),
  )
  def test_a_template_that_does_not_fit(self, template, message):
    self.store.save(1, tiny(), {})
    with self.assertRaisesRegex(checkpoints.CheckpointError, message):
      self.store.restore(template)

  def test_keys_of_another_generator_do_not_fit(self):
    self.store.save(1, {'key': jax.random.key(0)}, {})
    with self.assertRaisesRegex(checkpoints.CheckpointError, 'key<rbg>'):
      self.store.restore({'key': jax.random.key(0, impl='rbg')})


if __name__ == '__main__':
  absltest.main()
