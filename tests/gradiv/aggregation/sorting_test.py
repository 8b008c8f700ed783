"""Networks sort; sums of sorted values equal those of NumPy."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from gradiv.aggregation import _sorting


@pytest.mark.parametrize('n', range(1, 13))
def test_a_network_sorts_all_zeros_and_ones(n):
  # A network that sorts every sequence of zeros and ones sorts everything
  # (Knuth, The Art of Computer Programming 3, 5.3.4).
  values = np.array(list(itertools.product([0, 1], repeat=n))).T
  for i, j in _sorting.network(n):
    values[[i, j]] = np.minimum(*values[[i, j]]), np.maximum(*values[[i, j]])
  assert (np.diff(values, axis=0) >= 0).all()


@pytest.mark.parametrize('n', [31, 64, 65])
def test_rows_are_sorted_as_numpy_sorts_them(n):
  rows = np.random.default_rng(n).normal(size=(n, 50)).astype('f')
  rows[3, 4] = rows[7, 4] = np.inf
  ordered = jnp.stack(_sorting.sort(list(jnp.asarray(rows))))
  np.testing.assert_array_equal(ordered, np.sort(rows, axis=0))


def test_absent_rows_have_no_part():
  rows = np.random.default_rng(0).normal(size=(9, 20)).astype('f')
  present = np.arange(9) % 3 != 1
  rows[~present] = np.nan
  weights = np.array([0, 0.25, 0.5, 0.25, 0, 0, 0, 0, 0], 'f')
  got = _sorting.weighted_sum_of_sorted(
    jnp.asarray(rows), jnp.asarray(present), jnp.asarray(weights))
  wanted = weights[:6] @ np.sort(rows[present], axis=0)
  np.testing.assert_allclose(got, wanted, rtol=1e-6)
