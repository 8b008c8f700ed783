"""Two ways to one result: collectives, and rows of one array under vmap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from gradiv._common import one_device

AXIS = 'workers'


def collective(tree, scale):
  return (jax.tree.map(lambda x: scale * lax.psum(x * x, AXIS), tree),
          lax.psum(1.0, AXIS))


def of_rows(tree, scale):
  # `scale` has rows too, all alike.
  return (jax.tree.map(lambda x: scale[0] * jnp.sum(x * x, 0), tree),
          jnp.float32(len(scale)))


def own(tree, scale):
  return one_device.directly(collective, of_rows, (AXIS,), tree, scale)


def tree(*leading):
  shape = lambda *s: np.arange(np.prod((*leading, *s)), dtype='f').reshape(
    *leading, *s) / 7
  return {'a': jnp.asarray(shape(3)), 'b': jnp.asarray(shape(2, 2))}


def over_workers(fn, in_axes=(0, None)):
  return jax.vmap(fn, in_axes, out_axes=None, axis_name=AXIS)


def assert_same(one, other):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
               one, other)


def test_under_vmap_no_collective_is_left():
  wanted = over_workers(collective)(tree(8), 2.0)
  assert_same(over_workers(own)(tree(8), 2.0), wanted)
  calls = []
  def spy(*args):
    calls.append(args)
    return of_rows(*args)
  over_workers(lambda t, s: one_device.directly(
    collective, spy, (AXIS,), t, s))(tree(8), 2.0)
  assert len(calls) == 1


@pytest.mark.parametrize('seeds_first', [True, False])
def test_another_axis_may_lie_inside_or_outside(seeds_first):
  rows = tree(3, 8)
  scales = jnp.array([1.0, 2.0, 3.0])
  if seeds_first:
    step = lambda fn: jax.vmap(over_workers(fn))(rows, scales)
  else:
    step = lambda fn: jax.vmap(
      jax.vmap(fn), (1, None), None, axis_name=AXIS)(rows, scales)
  assert_same(step(own), jax.vmap(over_workers(collective))(rows, scales))


@pytest.mark.parametrize('check_vma', [True, False])
def test_on_devices_the_collective_runs(check_vma):
  mesh = jax.make_mesh((8,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
  def fail(*args):
    raise AssertionError('rows of one array')
  step = jax.jit(jax.shard_map(
    lambda t, s: one_device.directly(
      collective, fail, (AXIS,), jax.tree.map(lambda x: x[0], t), s),
    mesh=mesh, in_specs=(P(AXIS), P()), out_specs=P(), check_vma=check_vma))
  assert_same(step(tree(8), 2.0), over_workers(collective)(tree(8), 2.0))


def test_derivatives_are_those_of_the_collective():
  loss = lambda fn: lambda t: over_workers(fn)(t, 2.0)[0]['a'].sum()
  assert_same(jax.grad(loss(own))(tree(8)), jax.grad(loss(collective))(tree(8)))
  mesh = jax.make_mesh((8,), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
  step = lambda fn: jax.jit(jax.shard_map(
    jax.grad(lambda t: fn(t, 2.0)[0]['a'].sum()), mesh=mesh,
    in_specs=P(AXIS), out_specs=P(AXIS), check_vma=False))(tree(8))
  assert_same(step(own), step(collective))


def test_two_axes_take_the_collective():
  fn = lambda x: one_device.directly(
    lambda x: lax.psum(x, ('a', 'b')), None, ('a', 'b'), x)
  out = jax.vmap(jax.vmap(fn, axis_name='b'), axis_name='a')(jnp.ones((2, 3)))
  assert out.tolist() == [[6.0] * 3] * 2


@pytest.mark.parametrize('n', (3, 20, 80))
@pytest.mark.parametrize('size', (5, 1 << 14))
def test_the_sum_of_rows_is_their_sum(n, size):
  rows = np.float32(np.random.default_rng(n).normal(size=(n, size)))
  kept = np.arange(n) != 1
  np.testing.assert_allclose(
    jax.jit(one_device.sum_rows)(rows), rows.sum(0), 1e-4, 1e-5)
  expected = np.where(kept[:, None], rows, 0).sum(0)
  rows[1] = np.nan
  np.testing.assert_allclose(
    jax.jit(one_device.sum_rows)(rows, kept), expected, 1e-4, 1e-5)
