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


@pytest.mark.parametrize('weights', (
  (0, 0, 0, -2.5, 0, 0, 0), (0,) * 7, (0, 1e-30, 0, 1, 0, 0, 0)))
def test_a_row_alone_is_what_the_sum_would_be(weights):
  rows, weights = sample(), np.float32(weights)
  rows[2] = np.nan
  present = np.arange(7) != 2
  total = jax.jit(lambda x, weights: rows_lib.weighted_sum(
    {'g': x}, jnp.asarray(present), (), [weights], [0]))(rows, weights)
  np.testing.assert_array_equal(
    total['g'], np.float32(weights[3]) * rows[3])


def test_one_choice_for_each_seed():
  """The seeds choose a row, nothing, and a sum."""
  rows = np.stack([sample() for _ in range(3)])
  weights = np.float32([np.eye(7)[5], np.zeros(7), np.ones(7)])
  everyone = jnp.ones(7, bool)
  total = jax.jit(jax.vmap(lambda x, weights: rows_lib.weighted_sum(
    {'g': x}, everyone, (), [weights], [0])))(rows, weights)
  np.testing.assert_allclose(
    total['g'], np.einsum('sn,snd->sd', weights, rows), 1e-5)


def test_many_blocks_lose_no_digits(monkeypatch):
  monkeypatch.setattr(rows_lib, 'BLOCK_ELEMENTS', 0)
  monkeypatch.setattr(rows_lib, 'FEWEST_COLUMNS', 16)
  rows = np.full((4, 1 << 16), 0.3, np.float32)
  wanted = np.full((4, 4), (1 << 16) * np.float64(np.float32(0.3))**2)
  found, _ = gram_of(rows, centered=False)
  np.testing.assert_allclose(found, wanted, 2e-6)


@pytest.mark.parametrize('centered', (False, True))
def test_blocks_beside_one_another(centered, monkeypatch):
  """Two rounds of 64 blocks, and a rest that fills no round."""
  monkeypatch.setattr(rows_lib, 'FEWEST_COLUMNS', 16)
  rows = np.float32(RNG.normal(1, 1, (20, 2 * 64 * 16 + 37)))
  away = np.float64(rows) - centered * np.float64(rows).mean(0)
  found, present = gram_of(rows, centered=centered)
  # Of norms of 2,000 and more, a few roundings.
  np.testing.assert_allclose(found, away @ away.T, 1e-5, 1e-2)
  assert np.all(present)


def test_no_copy_of_the_rows_is_kept(n=32, size=1 << 20):
  rows = jax.ShapeDtypeStruct((n, size), jnp.float32)

  def step(rows):
    (gram,), present = rows_lib.gram_matrices(
      {'g': rows}, n, (), [0], 1, centered=True)
    return rows_lib.weighted_sum({'g': rows}, present, (), [gram[0]], [0])

  program = jax.jit(step).lower(rows).compile()
  temporary = program.memory_analysis().temp_size_in_bytes
  assert temporary < 1.5 * 4 * size + 4 * 2 * rows_lib.BLOCK_ELEMENTS
