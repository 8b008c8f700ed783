"""Hashed bits are uniform, and look independent in all that they depend on."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import gradiv
from gradiv._common import hashing
from tests import helpers

NUM = 2**16
KEY = jax.random.key(11)


def draw(key, num=NUM, first=0):
  return np.asarray(
    hashing.bits(hashing.words(key), hashing.places((num,), first)))


def centered(bits):
  return bits / 2.0**32 - 0.5


def correlation(one, other):
  """Return the correlation of uniform numbers, in standard errors."""
  return 12 * np.mean(centered(one) * centered(other)) * np.sqrt(len(one))


# How two streams differ that should be independent, at the same places.
OTHERS = {
  'a neighbor': lambda: draw(KEY, first=1),
  'sixteen on, a lane': lambda: draw(KEY, first=16),
  'a block on': lambda: draw(KEY, first=256),
  'a power of two on': lambda: draw(KEY, first=2**20),
  'the next step, or bucket': lambda: draw(jax.random.fold_in(KEY, 1)),
  'another key': lambda: draw(jax.random.key(12)),
  'a worker': lambda: draw(gradiv.workers.key_of_worker(KEY, 0)),
  'the first word, by a bit': lambda: np.asarray(hashing.bits(
    hashing.words(KEY) ^ jnp.uint32([1, 0]), hashing.places((NUM,)))),
  'both words, by a bit': lambda: np.asarray(hashing.bits(
    hashing.words(KEY) ^ jnp.uint32([1, 1]), hashing.places((NUM,)))),
}


class HashingTest(parameterized.TestCase):

  @parameterized.parameters(24, 16, 8, 0)
  def test_each_byte_is_uniform(self, shift):
    """By chi squared, of 255 degrees of freedom: 255 ± 22.6."""
    counts = np.bincount(draw(KEY, 2**18) >> shift & 255, minlength=256)
    expected = 2**18 / 256
    chi_squared = ((counts - expected)**2 / expected).sum()
    self.assertLess(abs(chi_squared - 255), 4 * np.sqrt(2 * 255))

  def test_pairs_of_neighbors_are_uniform(self):
    """Four bits of each of two neighbors: 256 cells."""
    bits = draw(KEY, 2**19).reshape(-1, 2) >> 28
    counts = np.bincount(16 * bits[:, 0] + bits[:, 1], minlength=256)
    expected = 2**18 / 256
    chi_squared = ((counts - expected)**2 / expected).sum()
    self.assertLess(abs(chi_squared - 255), 4 * np.sqrt(2 * 255))

  @parameterized.named_parameters(OTHERS.items())
  def test_no_correlation_with(self, other):
    one, other = draw(KEY), other()
    self.assertLess(abs(correlation(one, other)), 4)
    # Nor do single bits agree more often than half of the time.
    agree = [np.mean((one ^ other) >> i & 1) for i in range(32)]
    self.assertLess(
      np.abs(np.array(agree) - 0.5).max(), 4.5 / 2 / np.sqrt(NUM))

  def test_many_pairs_of_workers(self):
    """Products of all pairs of 32 workers have the variance that they should.
    """
    bits = np.stack([draw(gradiv.workers.key_of_worker(KEY, i), 4096)
                     for i in range(32)])
    rows = np.sqrt(12) * centered(bits)
    gram = rows @ rows.T / np.sqrt(4096)
    pairs = gram[np.triu_indices(32, 1)]
    self.assertLess(abs(pairs.mean()), 4 / np.sqrt(len(pairs)))
    self.assertLess(abs(pairs.var() - 1), 4 * np.sqrt(2 / len(pairs)))

  def test_the_mean_over_keys_at_each_place(self):
    keys = jax.random.split(KEY, 4096)
    bits = jax.vmap(lambda key: hashing.bits(
      hashing.words(key), hashing.places((64,))))(keys)
    helpers.assert_mean(centered(np.asarray(bits)), np.zeros(64))

  def test_each_bit_of_place_and_key_flips_each_bit_half_of_the_time(self):
    words = hashing.words(KEY)
    place = hashing.places((NUM,))
    bits = hashing.bits(words, place)
    flips = []
    for i in range(32):
      bit = jnp.uint32(1 << i)
      flips += [hashing.bits(words, place ^ bit) ^ bits,
                hashing.bits(words ^ jnp.stack([bit, bit * 0]), place) ^ bits]
    rates = np.stack([[np.mean(np.asarray(x) >> i & 1) for i in range(32)]
                      for x in flips])
    # A sanity check, looser than sampling: the mixer has a small bias.
    self.assertLess(np.abs(rates - 0.5).max(), 0.03)

  def test_places_count_on(self):
    whole = hashing.places((4, 6))
    np.testing.assert_array_equal(whole[2:], hashing.places((2, 6), 12))
    np.testing.assert_array_equal(
      hashing.places((2, 3), jnp.int32(5)).ravel(), np.arange(5, 11))


if __name__ == '__main__':
  absltest.main()
