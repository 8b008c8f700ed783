"""Gram matrices of rows on one device, which show who takes part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradiv.aggregation._exchange import rows as rows_lib

RNG = np.random.default_rng(11)


def gram_of(rows, centered):
  gram = lambda x: rows_lib.gram_matrices(
    {'g': x}, len(x), (), [0], 1, centered=centered)
  (found,), present = jax.jit(gram)(rows)
  return np.asarray(found), np.asarray(present)


def sample(n=7, size=300):
  return np.float32(RNG.normal(3, 1, (n, size)))


def assert_is_gram_of(kept, rows, centered):
  found, present = gram_of(rows, centered)
  assert present.tolist() == kept.tolist()
  own = np.where(kept[:, None], np.float64(rows), 0)
  if centered:
    own = np.where(kept[:, None], own - own.sum(0) / kept.sum(), 0)
  wanted = own @ own.T
  np.testing.assert_allclose(found, wanted, 1e-5, 1e-5 * wanted.max())


@pytest.mark.parametrize('centered', (False, True))
@pytest.mark.parametrize('value', (1., np.nan, np.inf, 1e17, 1e30))
def test_matrices_are_of_what_is_usable(centered, value):
  rows = sample()
  rows[2, 5] = value
  kept = (np.arange(7) != 2) | (value == 1.)
  assert_is_gram_of(kept, rows, centered)


@pytest.mark.parametrize('centered', (False, True))
def test_large_rows_that_cancel_are_seen(centered):
  rows = sample()
  rows[1, 5], rows[3, 5] = 1e20, -1e20
  assert_is_gram_of(~np.isin(np.arange(7), (1, 3)), rows, centered)


@pytest.mark.parametrize('length, is_usable', ((6e16, True), (8e16, False)))
def test_norms_decide_at_the_edge(length, is_usable):
  """Distances from the mean would say otherwise."""
  rows = sample()
  rows[:3, 5] = length, -length, -length
  for centered in (False, True):
    _, present = gram_of(rows, centered)
    assert present.tolist() == [is_usable] * 3 + [True] * 4


def test_a_weighted_sum_leaves_out_nan():
  rows = sample()
  rows[2] = np.nan
  present = np.arange(7) != 2
  weights = np.float32(RNG.normal(size=7))
  total = jax.jit(lambda x: rows_lib.weighted_sum(
    {'g': x}, jnp.asarray(present), (), [jnp.asarray(weights)], [0]))(rows)
  np.testing.assert_allclose(
    total['g'], weights[present] @ rows[present], 1e-4, 1e-5)


def test_no_copy_of_the_rows_is_kept(n=32, size=1 << 20):
  rows = jax.ShapeDtypeStruct((n, size), jnp.float32)

  def step(rows):
    (gram,), present = rows_lib.gram_matrices(
      {'g': rows}, n, (), [0], 1, centered=True)
    return rows_lib.weighted_sum({'g': rows}, present, (), [gram[0]], [0])

  program = jax.jit(step).lower(rows).compile()
  temporary = program.memory_analysis().temp_size_in_bytes
  assert temporary < 1.5 * 4 * size + 4 * 2 * rows_lib.BLOCK_ELEMENTS
