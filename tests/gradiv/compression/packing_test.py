"""Blocks of 8 or 4 bits: integers survive, and rounding has no bias."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from gradiv.compression import _packing
from tests import helpers

RNG = np.random.default_rng(14)
KEY = jax.random.key(6)


class PackingTest(parameterized.TestCase):

  @parameterized.parameters(8, 4)
  @pytest.mark.slow
  def test_integers_survive(self, num_bits):
    largest = _packing.LARGEST[num_bits]
    rows = np.float32(RNG.integers(-largest, largest + 1, size=(3, 64)))
    rows[:, ::16] = largest  # so that the scale of each block is one
    packing = _packing.Packing(num_bits, 16)
    payload = packing.encode(KEY, jnp.asarray(rows))
    self.assertEqual(payload.dtype, jnp.uint8)
    self.assertEqual(payload.shape, (3, 64 * num_bits // 8 + 4 * 4))
    np.testing.assert_array_equal(packing.decode(payload, 64), rows)

  @parameterized.product(num_bits=(8, 4), scale=(1e-30, 1., 1e15))
  def test_no_bias_at_any_scale(self, num_bits, scale):
    row = jnp.float32(scale * RNG.normal(size=(1, 10)))
    packing = _packing.Packing(num_bits, 4)
    seen = jax.jit(jax.vmap(
      lambda key: packing.decode(packing.encode(key, row), 10)))(
        jax.random.split(KEY, 4000))
    helpers.assert_mean(seen / scale, row / scale, rounding=1e-6)

if __name__ == '__main__':
  absltest.main()
