"""Moments of workers whose gradients are sharded or averaged."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized
from jax.sharding import PartitionSpec as P

import gradiv
from tests import helpers
from tests.gradiv.diversity.moments_test import RNG, naive


class LayoutTest(parameterized.TestCase):
  """Moments of gradients that are sharded, or averaged first."""

  def sharded(self, fn, backend, args, sharded):
    """Run ``fn(args)`` on 4 workers x 2 shards of what is `sharded`."""
    if backend in ('vmap', 'pmap'):
      cut = lambda x, s: (x.reshape(4, 2, -1, *x.shape[2:]) if s else
                          np.stack([x, x], 1))
      inner = jax.vmap(fn, axis_name='model', out_axes=None)
      return getattr(jax, backend)(inner, axis_name='data', out_axes=None)(
        jax.tree.map(cut, args, sharded))
    mesh = jax.sharding.Mesh(
      np.array(jax.devices()).reshape(4, 2), ('data', 'model'))
    spec = lambda s: P('data', 'model') if s else P('data')
    return jax.jit(jax.shard_map(
      lambda args: fn(jax.tree.map(lambda x: x[0], args)), mesh=mesh,
      in_specs=(jax.tree.map(spec, sharded),), out_specs=P(),
      check_vma=backend == 'check_vma'))(args)

  @parameterized.product(
    backend=('vmap', 'pmap', 'shard_map', 'check_vma'),
    groups=(None, gradiv.by_layer))
  @pytest.mark.slow
  def test_shards_add_up_to_the_whole(self, backend, groups):
    grads = {'dense': {'kernel': RNG.normal(1, 2, (4, 6, 3)).astype('f'),
                       'bias': RNG.normal(1, 2, (4, 3)).astype('f')},
             'head': RNG.normal(1, 2, (4, 8)).astype('f')}
    sharded = {'dense': {'kernel': True, 'bias': False}, 'head': True}
    layout = gradiv.Layout(
      sharded_over='model', is_sharded=lambda path: 'bias' not in str(path))
    one = lambda g: gradiv.worker_moments(
      g, 'data', batch_size=4, groups=groups, layout=layout)
    run = functools.partial(self.sharded, one, backend, sharded=sharded)
    whole = jax.vmap(lambda g: gradiv.worker_moments(
      g, 'data', batch_size=4, groups=groups), axis_name='data',
      out_axes=None)
    helpers.assert_close(run(grads), whole(grads), 2e-6)
    # Where one shard of one worker is not finite, nothing is known anywhere.
    grads['head'][1, 6] = np.inf
    moments = run(grads)
    self.assertTrue(np.all(np.isnan(moments.sq_norm_of_mean)))
    self.assertTrue(np.all(np.isnan(moments.mean_sq_deviation)))

  @parameterized.parameters(None, 'data')
  @pytest.mark.slow
  def test_mean_over_makes_one_worker_of_several(self, private):
    grads = RNG.normal(1, 2, (4, 2, 5)).astype('f')
    sizes = RNG.integers(1, 5, (4, 2)).astype('f')
    if private is None:
      sizes = np.full((4, 2), 3., 'f')

    def one(g, b):
      return gradiv.worker_moments(
        g, 'data', batch_size=3 if private is None else b,
        layout=gradiv.Layout(mean_over='fast'))

    inner = jax.vmap(one, axis_name='fast', out_axes=None)
    moments = jax.vmap(inner, axis_name='data', out_axes=None)(grads, sizes)
    means = np.sum(grads * sizes[..., None], 1) / sizes.sum(1)[:, None]
    helpers.assert_close(moments, naive(means, sizes.sum(1)), 1e-5)
    grads[2, 1, 0] = np.nan
    moments = jax.vmap(inner, axis_name='data', out_axes=None)(grads, sizes)
    self.assertTrue(np.isnan(moments.sq_norm_of_mean))


class SameParametersTest(parameterized.TestCase):

  @parameterized.product(check_vma=(True, False), is_dealt_out=(True, False))
  def test_parts_of_a_mean_are_told_from_gradients(
      self, check_vma, is_dealt_out):
    """FSDP deals out parameters and gradients; the type does not show it."""
    params = jnp.float32(RNG.normal(size=(16, 3)))
    x = jnp.float32(RNG.normal(size=(8, 3)))
    loss = lambda p, x: jnp.sum(jnp.square(p @ x[0]))

    def fn(p, x):
      if is_dealt_out:
        whole = jax.lax.all_gather(p, 'workers', tiled=True)
        grads = jax.lax.psum_scatter(
          jax.grad(loss)(whole, x), 'workers', tiled=True) / 8
      else:
        grads = jax.grad(loss)(gradiv.as_private(p, 'workers'), x)
      tx = gradiv.track_moments('workers', batch_size=1, same_params=True)
      _, state = tx.update(grads, tx.init(p), p)
      return state.num_skipped, gradiv.worker_moments(
        grads, 'workers', params=p)

    mesh = jax.sharding.Mesh(np.array(jax.devices()), ('workers',))
    num_skipped, moments = jax.jit(jax.shard_map(
      fn, mesh=mesh, in_specs=(P('workers') if is_dealt_out else P(),
                               P('workers')),
      out_specs=P(), check_vma=check_vma))(params, x)
    self.assertEqual(num_skipped, is_dealt_out)
    if is_dealt_out:
      self.assertTrue(np.isnan(moments.mean_sq_deviation))
    else:
      grads = jax.vmap(jax.grad(loss), (None, 0))(params, x[:, None])
      helpers.assert_close(moments, naive(grads), 1e-5)

  def test_parameters_must_be_there_to_be_compared(self):
    tx = gradiv.track_moments('workers', batch_size=1, same_params=True)
    with self.assertRaisesRegex(ValueError, 'same_params.*params'):
      jax.vmap(lambda g: tx.update(g, tx.init(g))[0], axis_name='workers')(
        jnp.ones((4, 3)))


if __name__ == '__main__':
  absltest.main()
