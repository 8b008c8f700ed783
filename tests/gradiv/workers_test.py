"""Workers as a named axis, on every backend."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax import lax
from jax.sharding import PartitionSpec as P

import gradiv
from gradiv import workers as workers_lib
from gradiv._common import compat
from tests import helpers

PARAMS = {'w': jnp.arange(1., 4.)}
DATA = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)


def loss(params, x):
  return jnp.sum((params['w'] * x) ** 2)


def per_worker(rows):
  return np.stack([jax.grad(loss)(PARAMS, x)['w'] for x in rows])


class MapWorkersTest(parameterized.TestCase):

  @parameterized.named_parameters(*helpers.ON_ALL)
  def test_each_worker_has_its_own_gradient(self, backend, axis, workers):
    def fn(x, params):
      return jax.grad(loss)(params, x), lax.axis_index(axis)

    grads, index = helpers.on_workers(
      fn, DATA[:workers], PARAMS, axis, backend, out_axes=0)
    np.testing.assert_allclose(grads['w'], per_worker(DATA[:workers]), 1e-6)
    np.testing.assert_array_equal(index, np.arange(workers))

  @parameterized.named_parameters(*helpers.ON_ALL)
  def test_results_feed_back(self, backend, axis, workers):
    """What a backend returns, common or private, it takes again."""
    mapped = gradiv.map_workers(
      lambda c, p: (c + lax.pmean(p['x'], axis), {'x': p['x'] + 1}), axis,
      in_axes=[None, {'x': 0}], out_axes=(None, 0), backend=backend)
    state = (np.float32(0), {'x': np.zeros(workers, np.float32)})
    for _ in range(3):
      state = mapped(*state)
    self.assertEqual(float(state[0]), 3.)
    np.testing.assert_array_equal(state[1]['x'], np.full(workers, 3.))

  @parameterized.parameters('vmap', 'shard_map')
  def test_inside_jit_and_scan(self, backend):
    mapped = gradiv.map_workers(
      lambda c, x: c + lax.psum(x, 'workers'), 'workers', in_axes=(None, 0),
      out_axes=None, backend=backend)
    run = jax.jit(lambda xs: lax.scan(
      lambda c, x: (mapped(c, x), None), 0., xs)[0])
    self.assertEqual(float(run(jnp.ones((5, 8)))), 40.)

  def test_committed_inputs_are_moved(self):
    x = jax.device_put(jnp.arange(8.), jax.devices()[3])
    for backend in workers_lib.BACKENDS:
      mapped = gradiv.map_workers(lambda x: lax.psum(x, 'w'), 'w',
                                  out_axes=None, backend=backend)
      self.assertEqual(float(mapped(x)), 28.)

  def test_a_grid_of_devices(self):
    grid = np.array(jax.devices()).reshape(2, 4)
    hosts = lambda x: lax.psum(x, 'hosts')
    mapped = gradiv.map_workers(
      hosts, ('hosts', 'chips', 'virtual'), backend='shard_map', devices=grid)
    x = np.arange(16, dtype=np.float32)
    np.testing.assert_array_equal(
      mapped(x), np.tile(x.reshape(2, 8).sum(0), 2))
    whole = gradiv.map_workers(
      hosts, ('hosts', 'chips'), backend='shard_map', devices=grid)
    np.testing.assert_array_equal(
      whole(x[:8]), np.tile(x[:8].reshape(2, 4).sum(0), 2))

  def test_vmap_catches_a_result_that_is_not_common(self):
    with self.assertRaisesRegex(ValueError, 'out_axes'):
      gradiv.map_workers(lambda x: x, 'w', out_axes=None)(jnp.arange(4.))

  @parameterized.parameters(
    (dict(axis_name=()), 'axis_name'),
    (dict(axis_name=('a', 'a')), 'axis_name'),
    (dict(axis_name=3), 'axis_name'),
    (dict(axis_name='w', backend='pjit'), 'backend'),
    (dict(axis_name='w', in_axes=1), 'in_axes'),
    (dict(axis_name='w', out_axes=(0, 2)), 'out_axes'),
    (dict(axis_name='w', devices=np.zeros((2, 2, 2))), 'devices'),
  )
  def test_invalid_arguments_fail_at_construction(self, kwargs, name):
    with self.assertRaisesRegex(ValueError, name):
      gradiv.map_workers(lambda x: x, **kwargs)

  def test_arguments_pass_by_name(self):
    def scaled(x, scale, shift=0.):
      return x * scale + shift

    mapped = gradiv.map_workers(scaled, 'w', in_axes=(0, None, 0))
    x, shift = jnp.arange(3.), jnp.ones(3)
    for found in (mapped(x, 2., shift=shift),
                  mapped(x, shift=shift, scale=2.),
                  mapped(shift=shift, scale=2., x=x)):
      np.testing.assert_array_equal(found, [1., 3., 5.])

  @parameterized.parameters(
    (lambda x, *, scale: x, dict(scale=2.), 'scale'),
    (lambda x, **kwargs: x, dict(scale=2.), 'scale'),
    (lambda x, a=1., b=1.: x, dict(b=2.), 'b'),  # no value for a to map
    (lambda x: x, dict(scale=2.), 'scale'))
  def test_an_error_names_the_function_and_the_argument(
      self, fn, kwargs, name):
    with self.assertRaisesRegex(TypeError, f"lambda.*'{name}'"):
      gradiv.map_workers(fn, 'w')(jnp.ones(3), **kwargs)

  @parameterized.product(
    backend=('pmap', 'shard_map'), axis_type=('Explicit', 'Auto'),
    names=(('workers',), ('data', 'model')))
  def test_works_inside_any_mesh(self, backend, axis_type, names):
    shape = (8,) if len(names) == 1 else (4, 2)
    types = (getattr(jax.sharding.AxisType, axis_type),) * len(names)
    mesh = jax.make_mesh(shape, names, axis_types=types)
    mapped = gradiv.map_workers(
      lambda x, c: lax.psum(c * x, 'workers') - x, 'workers',
      in_axes=(0, None), backend=backend)
    with jax.set_mesh(mesh):
      rows = jax.device_put(
        np.arange(8.), jax.sharding.NamedSharding(mesh, P(names)))
      for x in (jnp.arange(8.), rows):
        np.testing.assert_array_equal(mapped(x, 2.), 56. - np.arange(8))
      if axis_type == 'Explicit' and names != ('workers',):
        with self.assertRaisesRegex(ValueError, 'data.*sharded'):
          jax.jit(mapped)(rows, 2.)
      elif backend == 'shard_map':
        np.testing.assert_array_equal(
          jax.jit(mapped)(rows, 2.), 56. - np.arange(8))
      # The mesh of the context is back.
      self.assertEqual(
        jax.sharding.get_abstract_mesh(), mesh.abstract_mesh)

  @parameterized.parameters('Explicit', 'Auto')
  def test_lies_along_the_users_mesh(self, axis_type):
    """Given or of the context; in its order, and copied along other axes."""
    types = (getattr(jax.sharding.AxisType, axis_type),) * 2
    mesh = jax.sharding.Mesh(
      np.array(jax.devices())[::-1].reshape(4, 2), ('data', 'model'),
      axis_types=types)
    rank = lambda x: (x - lax.pmean(x, 'data'), lax.axis_index('data'))
    run = lambda **kw: gradiv.map_workers(
      rank, 'data', backend='shard_map', **kw)(np.arange(4.))
    with jax.set_mesh(mesh):
      of_context = run()
    for gap, index in (of_context, run(mesh=mesh)):
      np.testing.assert_array_equal(gap, np.arange(4) - 1.5)
      self.assertEqual(index.sharding, jax.sharding.NamedSharding(
        mesh, P('data')))
      for shard in index.addressable_shards:
        self.assertEqual(shard.data[0], (7 - shard.device.id) // 2)

  def test_what_lies_right_is_not_sent_again(self):
    mapped = gradiv.map_workers(
      lambda x, c: (x, c), 'w', in_axes=(0, None), out_axes=(0, None),
      backend='shard_map')
    args = mapped(np.arange(8.), np.ones(3))
    with mock.patch.object(jax, 'device_put', side_effect=AssertionError):
      mapped(*args)

  def test_meshes_that_do_not_fit(self):
    mesh = jax.make_mesh((8,), ('data',))
    call = lambda axis, n, **kw: gradiv.map_workers(
      lambda x: x, axis, mesh=mesh, **kw)(jnp.zeros(n))
    with self.assertRaisesRegex(ValueError, "mesh.*backend='shard_map'"):
      call('data', 8)
    with self.assertRaisesRegex(ValueError, 'mesh.*axis_name'):
      call('workers', 8, backend='shard_map')
    with self.assertRaisesRegex(ValueError, '4 workers on 8 devices'):
      call('data', 4, backend='shard_map')
    with self.assertRaisesRegex(ValueError, '12 workers on 8 devices'):
      call(('data', 'virtual'), 12, backend='shard_map')

  def test_workers_that_do_not_fit(self):
    call = lambda n, axis='w', **kw: gradiv.map_workers(
      lambda x: x, axis, backend='shard_map', **kw)(jnp.zeros(n))
    with self.assertRaisesRegex(ValueError, '64 workers on 8 devices'):
      call(64)
    with self.assertRaisesRegex(ValueError, '6 workers on 4 devices'):
      call(6, ('d', 'v'), devices=jax.devices()[:4])
    with self.assertRaisesRegex(ValueError, 'in_axes'):
      gradiv.map_workers(lambda x: x, 'w', in_axes=None)(jnp.zeros(3))
    with self.assertRaisesRegex(ValueError, r'in_axes.*\[3, 4\]'):
      gradiv.map_workers(lambda x, y: x, 'w')(jnp.zeros(3), jnp.zeros(4))
    with self.assertRaisesRegex(ValueError, 'devices.*pmap'):
      gradiv.map_workers(
        lambda x: x, ('a', 'b'), backend='pmap',
        devices=np.array(jax.devices()).reshape(2, 4))(jnp.zeros(8))


class UsersShardMapTest(parameterized.TestCase):
  """The trap: check_vma=True sums the gradient of common parameters."""

  def own_shard_map(self, fn, check_vma, out_specs=P('workers')):
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ('workers',))
    return jax.jit(jax.shard_map(
      fn, mesh=mesh, in_specs=(P('workers'), P()), out_specs=out_specs,
      check_vma=check_vma))

  @parameterized.parameters(True, False)
  def test_as_private_keeps_each_gradient(self, check_vma):
    def fn(x, params):
      params = gradiv.as_private(params, 'workers')
      params = gradiv.as_private(params, 'workers')  # once more: no harm
      return jax.grad(loss)(params, x[0])['w'][None]

    grads = self.own_shard_map(fn, check_vma)(DATA[:8], PARAMS)
    np.testing.assert_allclose(grads, per_worker(DATA[:8]), 1e-6)

  def test_without_it_the_gradient_is_the_sum(self):
    """Holds the trap itself: should jax mend it, as_private can go."""
    fn = lambda x, params: jax.grad(loss)(params, x[0])['w']
    grads = self.own_shard_map(fn, True, P())(DATA[:8], PARAMS)
    np.testing.assert_allclose(grads, per_worker(DATA[:8]).sum(0), 1e-5)

  @parameterized.parameters(True, False)
  def test_a_reduced_gradient_is_refused(self, check_vma):
    def fn(x, params):
      grads = jax.grad(loss)(params, x[0])
      workers_lib.check_private(grads, 'workers')
      return grads['w'][None]

    mapped = self.own_shard_map(fn, check_vma, P(None))
    if check_vma:
      with self.assertRaisesRegex(ValueError, 'already reduced.*as_private'):
        mapped(DATA[:8], PARAMS)
    else:
      mapped(DATA[:8], PARAMS)

  @parameterized.parameters(*workers_lib.BACKENDS)
  def test_as_private_does_nothing_elsewhere(self, backend):
    fn = lambda x, c: gradiv.as_private(c, 'w') + x
    out = helpers.on_workers(
      fn, jnp.arange(8.), jnp.float32(1), 'w', backend, out_axes=0)
    np.testing.assert_array_equal(out, np.arange(1, 9))

  @parameterized.parameters(
    lambda x: workers_lib.num_workers('w'),
    lambda x: gradiv.worker_key(jax.random.key(0), ('data', 'w')),
    lambda x: gradiv.as_private(x, 'w'),
    lambda x: gradiv.worker_moments(
      x, 'data', layout=gradiv.Layout(
        sharded_over='w', is_sharded=lambda path: False)))
  def test_an_axis_that_is_not_mapped_is_named_with_those_that_are(self, fn):
    with self.assertRaisesRegex(ValueError, r"axis_name='w'.*\('data',\)"):
      jax.vmap(fn, axis_name='data')(jnp.ones(2))

  def test_where_no_axis_is_mapped_the_error_says_what_maps_one(self):
    with self.assertRaisesRegex(ValueError, "axis_name='w'.*map_workers"):
      jax.vmap(lambda x: gradiv.as_private(x, 'w'))(jnp.ones(2))

  def test_compat_reads_types(self):
    seen = {}

    def fn(x, params):
      seen['x'] = compat.varying_axes(x)
      seen['w'] = compat.varying_axes(params['w'])
      seen['tracked'] = compat.is_tracked('workers')
      return x

    self.own_shard_map(fn, True)(DATA[:8], PARAMS)
    self.assertEqual(seen, {'x': frozenset({'workers'}), 'w': frozenset(),
                            'tracked': True})


class RandomnessTest(parameterized.TestCase):

  def draws(self, backend, axis, devices=None, workers=64):
    key = jax.random.key(7)
    fn = lambda _, key: jax.random.bits(gradiv.worker_key(key, axis), (4,))
    return np.asarray(helpers.on_workers(
      fn, np.zeros(workers), key, axis, backend, 0, devices))

  def test_same_stream_on_any_backend_and_device_count(self):
    reference = self.draws('vmap', 'workers')
    self.assertLen(np.unique(reference), reference.size)
    tuple_axis = ('devices', 'virtual')
    for backend in ('pmap', 'shard_map'):
      for count in (1, 2, 8):
        np.testing.assert_array_equal(reference, self.draws(
          backend, tuple_axis, jax.devices()[:count]))
      np.testing.assert_array_equal(
        reference[:8], self.draws(backend, 'workers', workers=8))

  def test_no_worker_draws_what_a_split_key_draws(self):
    """split(key)[i] equals fold_in(key, i): worker 0 must not collide."""
    key = jax.random.key(0)
    keys = jax.vmap(lambda _: gradiv.worker_key(key, 'w'), axis_name='w')(
      jnp.arange(8))
    data = {tuple(d) for d in np.asarray(jax.random.key_data(keys)).tolist()}
    split = jax.random.key_data(jax.random.split(key, 8))
    self.assertEmpty(data & {tuple(d) for d in np.asarray(split).tolist()})

  def test_replicate(self):
    tree = {'a': jnp.arange(3.), 'k': jax.random.key(0)}
    rows = gradiv.replicate(tree, 4)
    self.assertEqual(rows['a'].shape, (4, 3))
    self.assertEqual(rows['k'].shape, (4,))
    with self.assertRaisesRegex(ValueError, 'num_workers=0'):
      gradiv.replicate(tree, 0)


if __name__ == '__main__':
  absltest.main()
