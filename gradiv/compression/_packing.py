"""Numbers as bytes: blocks of 8 or 4 bits, each block with a scale.

A block holds whole numbers from −L to L, L = 127 or 7, times its largest
magnitude over L. They are rounded at random, E = v, and the scale follows the
bytes of all blocks as float32.
"""

import jax
import jax.numpy as jnp
from jax import lax

from gradiv._common import draws

LARGEST = {8: 127, 4: 7}
# Below it the scale of a block would not be a normal number: it is zero.
_TINY = 1e-35


def even_blocks(width: int, block_size: int) -> int:
  """Choose the size of blocks that are as full as can be: even, and so many
  as blocks of `block_size` would be."""
  count = -(-width // block_size)
  size = -(-width // count)
  return size + size % 2


def encode(
  key: jax.Array, rows: jax.Array, num_bits: int, block_size: int
) -> jax.Array:
  """Round [n, d] float32 to [n, bytes] uint8."""
  n, width = rows.shape
  blocks = jnp.pad(rows, ((0, 0), (0, -width % block_size)))
  blocks = blocks.reshape(n, -1, block_size)
  largest = LARGEST[num_bits]
  scale = jnp.abs(blocks).max(-1) / largest
  scale = jnp.where(scale > _TINY, scale, 0)
  place = blocks / jnp.where(scale == 0, 1, scale)[..., None]
  place = jnp.where((scale == 0)[..., None], 0, place)
  # Magnitudes: of a small negative number the rest to the next would be one.
  low = jnp.floor(jnp.abs(place))
  up = draws.round_up(key, jnp.abs(place) - low)
  whole = jnp.minimum(low + up, largest).astype(jnp.int8)
  whole = jnp.where(place < 0, -whole, whole)
  if num_bits == 4:
    pairs = (whole + 8).astype(jnp.uint8)
    packed = pairs[..., 0::2] | (pairs[..., 1::2] << 4)
  else:
    packed = lax.bitcast_convert_type(whole, jnp.uint8)
  scale = lax.bitcast_convert_type(scale, jnp.uint8)
  return jnp.concatenate([packed.reshape(n, -1), scale.reshape(n, -1)], 1)


def decode(
  payload: jax.Array, width: int, num_bits: int, block_size: int
) -> jax.Array:
  """Read [n, bytes] uint8 as [n, width] float32."""
  n = payload.shape[0]
  num_blocks = -(-width // block_size)
  packed, scale = payload[:, :-4 * num_blocks], payload[:, -4 * num_blocks:]
  scale = lax.bitcast_convert_type(
    scale.reshape(n, num_blocks, 4), jnp.float32)
  if num_bits == 4:
    pairs = jnp.stack([packed & 15, packed >> 4], -1)
    whole = pairs.astype(jnp.float32) - 8
  else:
    whole = lax.bitcast_convert_type(packed, jnp.int8).astype(jnp.float32)
  blocks = whole.reshape(n, num_blocks, block_size) * scale[..., None]
  return blocks.reshape(n, -1)[:, :width]
