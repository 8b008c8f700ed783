"""Which gradients are usable, learned in passing, is what norms would say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gradiv._common import trees, usable_rows

RNG = np.random.default_rng(5)


def sample(n=6, size=40_000):
  return {'a': np.float32(RNG.normal(size=(n, size))),
          'b': np.float32(RNG.normal(size=(n, 3, 5)))}


def assert_is_mean_of(kept, grads):
  mean, usable = jax.jit(usable_rows.mean)(grads)
  assert usable.tolist() == kept.tolist()
  for name, rows in grads.items():
    wanted = np.float64(rows[kept]).mean(0) if kept.any() else 0
    np.testing.assert_allclose(mean[name], wanted, 1e-5, 1e-6)


def test_all_are_averaged():
  assert_is_mean_of(np.ones(6, bool), sample())


@pytest.mark.parametrize('value', (np.nan, np.inf, -np.inf, 1e17, 2e30))
@pytest.mark.parametrize('leaf', 'ab')
def test_what_is_not_usable_is_left_out(value, leaf):
  grads = sample()
  grads[leaf].reshape(6, -1)[2, -1] = value
  assert_is_mean_of(np.arange(6) != 2, grads)


def test_large_elements_that_cancel_are_seen():
  grads = sample()
  grads['a'][1, 7], grads['a'][4, 7] = 1e20, -1e20
  assert_is_mean_of(~np.isin(np.arange(6), (1, 4)), grads)


def test_a_large_element_may_be_usable():
  grads = sample()
  grads['b'][3, 0, 0] = 1e16  # More than its share of the largest norm.
  assert_is_mean_of(np.ones(6, bool), grads)


def test_none_is_usable():
  assert_is_mean_of(
    np.zeros(6, bool), jax.tree.map(lambda x: np.nan * x, sample()))


def test_bounds_agree_with_norms():
  """Elements up to the bound are usable, however many there are."""
  for size in (1, 1000, 2**20):
    most = usable_rows.largest_element(usable_rows.CERTAIN_NORM, size)
    assert trees.is_usable(trees.sq_norm(jnp.full(size, most)))


@pytest.mark.parametrize('size', (1, 2048, 2049, 40_001, 1 << 18))
def test_every_element_is_looked_at(size):
  check = jax.jit(lambda x: usable_rows.all_within(x, 2.))
  values = np.float32(RNG.uniform(-2, 2, size))
  assert check(values)
  for place in {0, size // 3, size - 1}:
    for value in (np.nan, 2.1, -np.inf):
      changed = values.copy()
      changed[place] = value
      assert not check(changed)


def test_it_copies_nothing(n=32, size=1 << 16):
  grads = jax.ShapeDtypeStruct((n, size), jnp.float32)
  program = jax.jit(usable_rows.mean).lower(grads).compile()
  assert program.memory_analysis().temp_size_in_bytes < 4 * size


@pytest.mark.parametrize('kind', (AxisType.Auto, AxisType.Explicit))
def test_shards_stay_where_they_are(kind):
  mesh = jax.make_mesh((2,), ('model',), axis_types=(kind,),
                       devices=jax.devices()[:2])
  rows = jax.device_put(np.float32(RNG.normal(size=(4, 128, 64))),
                        NamedSharding(mesh, PartitionSpec(None, None, 'model')))
  program = jax.jit(usable_rows.mean).lower(rows).compile()
  assert 'all-gather' not in program.as_text()
  np.testing.assert_allclose(program(rows)[0], np.mean(rows, 0), 1e-5, 1e-6)


def test_no_leaves():
  assert usable_rows.are_usable({}, 5).tolist() == [True] * 5


def test_lanes_decide_alone():
  """Under another vmap, one lane's NaN does not touch the others."""
  rows = np.float32(RNG.normal(size=(3, 5, 50)))
  rows[1, 4, 2] = np.nan
  mean, usable = jax.jit(jax.vmap(usable_rows.mean))(rows)
  wanted = rows.mean(1)
  wanted[1] = rows[1, :4].mean(0)
  np.testing.assert_allclose(mean, wanted, 1e-5, 1e-6)
  assert usable.sum(1).tolist() == [5, 4, 5]
