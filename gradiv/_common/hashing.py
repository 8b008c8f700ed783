"""Random bits by a hash of a key and of the place of each number.

Random bits of `jax.random` cost more than what is done with them where a
number is only rounded: twenty rounds of Threefry, and a pass of their own over
memory. A hash of a few integer operations is computed inside the loop that
uses it, and nothing is stored.
"""

import jax
import jax.numpy as jnp

# Keeps these streams apart from those of `jax.random`.
_TAG = 0x68617368


def words(key: jax.Array) -> jax.Array:
  """Return two words of 32 bits that stand for a key, [2] uint32.

  They come from `jax.random.fold_in`, which is Threefry, so that those of
  different keys look independent, however alike the keys are.
  """
  folded = jax.random.fold_in(key, _TAG)
  return jax.random.key_data(folded).reshape(-1)[:2].astype(jnp.uint32)


def bits(words: jax.Array, index: jax.Array) -> jax.Array:
  """Hash each index with two words of a key, to 32 bits that look random.

  The mixer is `lowbias32` of Chris Wellons' `hash-prospector
  <https://github.com/skeeto/hash-prospector>`_ (2018): a multiplication by an
  odd number between shifts, twice. Any bit of its argument flips each bit of
  its result with a probability near one half. The first word is joined to
  the index, and the second to the state between the multiplications.

  It is not cryptographic: who knows enough bits can compute the key. For fixed
  words it permutes the indices, so that 2³² numbers never repeat. Two keys
  with the same first word, one pair in 2³², give related bits.

  Args:
    words: Of the key, [2] uint32.
    index: Places, uint32.

  >>> key = jax.random.key(0)
  >>> drawn = bits(words(key), jnp.arange(4, dtype=jnp.uint32))
  >>> drawn.dtype.name, len(set(drawn.tolist()))
  ('uint32', 4)
  """
  x = index ^ words[0]
  x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
  x = ((x ^ (x >> 15)) + words[1]) * jnp.uint32(0x846CA68B)
  return x ^ (x >> 16)


def places(shape: tuple[int, ...], first: jax.Array | int = 0) -> jax.Array:
  """Count the elements of an array of a shape from `first` on, as uint32.

  >>> places((2, 3), 10).tolist()
  [[10, 11, 12], [13, 14, 15]]
  """
  index, stride = jnp.asarray(first).astype(jnp.uint32), 1
  for axis in reversed(range(len(shape))):
    index = index + jnp.uint32(stride % 2**32) * jax.lax.broadcasted_iota(
      jnp.uint32, shape, axis)
    stride *= shape[axis]
  return index
