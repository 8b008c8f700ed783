"""Who draws alike: workers, examples, steps, purposes."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import Mesh, PartitionSpec as P

import gradiv
from gradiv import perturbations
from gradiv._common import draws
from tests import helpers

KEY = jax.random.key(11)
EACH = (
  ('drop', lambda axis=None: gradiv.drop_updates(
    0.5, key=KEY, axis_name=axis)),
  ('noise', lambda axis=None: gradiv.add_langevin_noise(
    1., key=KEY, axis_name=axis)),
  ('quantize', lambda axis=None: gradiv.quantize_updates(
    1, key=KEY, axis_name=axis)),
)
GRADS = jnp.ones((5, 200))


def update(tx, grads, **extra):
  return tx.update(grads, tx.init(grads), **extra)[0]


class ExampleIndexTest(parameterized.TestCase):

  @parameterized.named_parameters(*EACH)
  @pytest.mark.slow
  def test_ties_the_draw_to_the_example(self, make):
    tx = make('examples')
    tied = jax.vmap(lambda g, i: update(tx, g, example_index=i),
                    axis_name='examples')
    first = np.asarray(tied(GRADS, jnp.array([7, 3, 7, 9, 3])))
    for i, j in ((0, 2), (1, 4)):
      np.testing.assert_array_equal(first[i], first[j])
    for i, j in ((0, 1), (0, 3), (1, 3)):
      self.assertTrue((first[i] != first[j]).any())
    # Wherever it stands, and without any axis.
    np.testing.assert_array_equal(
      tied(GRADS, jnp.array([1, 7, 2, 0, 5]))[1], first[0])
    np.testing.assert_array_equal(
      update(make(), GRADS[0], example_index=7), first[0])

  @parameterized.named_parameters(*EACH)
  def test_draws_anew_each_step(self, make):
    tx = make()
    state, step = tx.init(GRADS[0]), jax.jit(tx.update)
    first, state = step(GRADS[0], state, example_index=3)
    second, _ = step(GRADS[0], state, example_index=3)
    self.assertTrue((np.asarray(first) != np.asarray(second)).any())

  @parameterized.named_parameters(*EACH)
  @pytest.mark.slow
  def test_per_worker_and_per_example(self, make):
    tx = make(('workers', 'examples'))
    each = jax.vmap(jax.vmap(lambda g: update(tx, g), axis_name='examples'),
                    axis_name='workers')
    seen = np.asarray(each(jnp.ones((2, 3, 200)))).reshape(6, 200)
    self.assertLen({row.tobytes() for row in seen}, 6)

  @parameterized.named_parameters(*EACH)
  @pytest.mark.slow
  def test_all_conventions_on_every_backend(self, make):
    expected = None
    for name, backend, axis, workers in helpers.ON_ALL:
      tx = make(axis)
      fn = lambda row, _: (
        update(tx, row['g']), update(tx, row['g'], example_index=row['i']))
      rows = {'g': jnp.ones((workers, 50)), 'i': jnp.arange(workers) // 2}
      seen = helpers.on_workers(fn, rows, (), axis, backend, out_axes=0)
      seen = jax.tree.map(lambda x: np.asarray(x[:8]), seen)
      expected = expected or seen
      for a, b in zip(seen, expected):
        np.testing.assert_allclose(a, b, 1e-6, err_msg=name)


class SharingTest(parameterized.TestCase):

  @parameterized.named_parameters(*EACH)
  def test_a_draw_that_would_be_shared_is_refused(self, make):
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ('data', 'model'))

    def run(axis):
      tx = make(axis)
      return jax.jit(jax.shard_map(
        lambda g: update(tx, g), mesh=mesh, in_specs=P(('data', 'model')),
        out_specs=P(('data', 'model')), check_vma=True))(jnp.ones((8, 30)))

    for axis, left in ((None, "'data', 'model'"), ('data', "'model'")):
      with self.assertRaisesRegex(ValueError, rf'differs along \[{left}\]'):
        run(axis)
    rows = np.asarray(run(('data', 'model'))).reshape(4, -1)
    self.assertLen({row.tobytes() for row in rows}, 4)

  def mapped(self, fn, *args, specs):
    mesh = Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ('data', 'model'))
    return jax.jit(jax.shard_map(
      fn, mesh=mesh, in_specs=specs, out_specs=specs[0], check_vma=True))(*args)

  @parameterized.named_parameters(*EACH)
  def test_so_is_an_example_index_that_is_the_same_on_shards(self, make):
    tx = make()
    fn = lambda g, i: update(tx, g, example_index=i[0])
    both = P(('data', 'model'))
    with self.assertRaisesRegex(ValueError, r"differs along \['model'\]"):
      self.mapped(fn, jnp.ones((8, 9)), jnp.arange(2),
                  specs=(both, P('data')))
    rows = self.mapped(fn, jnp.ones((8, 9)), jnp.array([0, 1, 0, 1]),
                       specs=(both, both)).reshape(4, -1)
    np.testing.assert_array_equal(rows[0], rows[2])
    self.assertTrue((rows[0] != rows[1]).any())

  @parameterized.parameters(
    lambda **kw: gradiv.drop_updates(0.5, key=KEY, **kw),
    lambda **kw: gradiv.add_langevin_noise(1., key=KEY, **kw),
    lambda **kw: perturbations.precondition_langevin(1., key=KEY, **kw))
  def test_shards_behind_the_wire_draw_apart_and_copies_alike(self, make):
    grads = {'cut': jnp.ones((8, 9)), 'whole': jnp.ones(9)}
    spec = {'cut': P('model'), 'whole': P()}
    run = lambda tx: self.mapped(
      lambda g: update(tx, g), grads, specs=(spec,))
    with self.assertRaisesRegex(ValueError, r"differs along \['model'\]"):
      run(make())
    seen = run(make(sharded_over='model',
                    is_sharded=lambda path: path[-1].key == 'cut'))
    self.assertTrue((seen['cut'][:4] != seen['cut'][4:]).any())
    with self.assertRaisesRegex(ValueError, 'sharded_over=None'):
      make(is_sharded=lambda path: True)

  @parameterized.named_parameters(*EACH)
  def test_bad_indices_and_leaves(self, make):
    for index in (1.5, jnp.arange(3)):
      with self.assertRaisesRegex(ValueError, 'example_index='):
        update(make(), GRADS[0], example_index=index)
    with self.assertRaisesRegex(ValueError, 'dtype int32'):
      update(make(), jnp.arange(3))

  def test_purposes_of_one_key_are_apart(self):
    state = draws.init(KEY)
    keys = [draws.key_of(state, p) for p in ('drop_updates', 'noise')]
    keys.append(draws.key_of(draws.next_step(state), 'noise'))
    bits = [int(jax.random.bits(k)) for k in keys]
    self.assertLen(set(bits), 3)

  def test_chances_finer_than_a_uniform_float(self):
    # 2⁻²⁵ is 128 of the 2³² bit patterns; uniform floats make 2⁻²³ of it.
    with mock.patch.object(jax.random, 'bits', return_value=jnp.arange(
        256, dtype=jnp.uint32)):
      up = draws.round_up(KEY, jnp.full(256, 2.0**-25))
    np.testing.assert_array_equal(up, np.arange(256) < 128)
    # And next to one, where bits as a float would be rounded up.
    last = jnp.uint32(2**32 - 1) - jnp.arange(512, dtype=jnp.uint32)
    with mock.patch.object(jax.random, 'bits', return_value=last):
      up = draws.round_up(KEY, jnp.full(512, 1 - 2.0**-24))
    np.testing.assert_array_equal(up, np.arange(512) >= 256)


if __name__ == '__main__':
  absltest.main()
