"""Numbers as bytes: blocks of 8 or 4 bits, each block with its own scale.

A block holds integers from −L to L, with L = 127 or 7, times its largest
magnitude divided by L. Numbers are rounded at random, so that E = v. The bytes
of all blocks are followed by their scales as float32.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from gradiv._common import checks, draws

LARGEST = {8: 127, 4: 7}
# Below it the scale of a block would be subnormal, so it is set to zero.
_TINY = 1e-35


@dataclasses.dataclass(frozen=True)
class Packing:
  """How rows of float32 are packed into bytes.

  Attributes:
    num_bits: Bits per number, 8 or 4.
    block_size: Largest number of elements that share a scale; even.
  """

  num_bits: int
  block_size: int

  def __post_init__(self) -> None:
    if not isinstance(self.num_bits, int) or self.num_bits not in LARGEST:
      raise ValueError(f'num_bits={self.num_bits!r}: must be 8 or 4')
    checks.count('block_size', self.block_size, 2)
    if self.block_size % 2:
      raise ValueError(f'block_size={self.block_size!r}: must be even')

  def encode(self, key: jax.Array, rows: jax.Array) -> jax.Array:
    """Round [n, width] float32 at random to [n, bytes] uint8."""
    n, width = rows.shape
    size = self._even_block_size(width)
    blocks = jnp.pad(rows, ((0, 0), (0, -width % size)))
    blocks = blocks.reshape(n, -1, size)
    largest = LARGEST[self.num_bits]
    scale = jnp.abs(blocks).max(-1) / largest
    scale = jnp.where(scale > _TINY, scale, 0)
    place = blocks / jnp.where(scale == 0, 1, scale)[..., None]
    place = jnp.where((scale == 0)[..., None], 0, place)
    # Round magnitudes: for a tiny negative number, the fraction above the
    # floor would round to one.
    low = jnp.floor(jnp.abs(place))
    up = draws.round_up(key, jnp.abs(place) - low)
    whole = jnp.minimum(low + up, largest).astype(jnp.int8)
    whole = jnp.where(place < 0, -whole, whole)
    if self.num_bits == 4:
      pairs = (whole + 8).astype(jnp.uint8)
      packed = pairs[..., 0::2] | (pairs[..., 1::2] << 4)
    else:
      packed = lax.bitcast_convert_type(whole, jnp.uint8)
    scale = lax.bitcast_convert_type(scale, jnp.uint8)
    return jnp.concatenate([packed.reshape(n, -1), scale.reshape(n, -1)], 1)

  def decode(self, payload: jax.Array, width: int) -> jax.Array:
    """Read [n, bytes] uint8 as [n, width] float32."""
    n, size = payload.shape[0], self._even_block_size(width)
    num_blocks = -(-width // size)
    packed, scale = payload[:, :-4 * num_blocks], payload[:, -4 * num_blocks:]
    scale = lax.bitcast_convert_type(
      scale.reshape(n, num_blocks, 4), jnp.float32)
    if self.num_bits == 4:
      pairs = jnp.stack([packed & 15, packed >> 4], -1)
      whole = pairs.astype(jnp.float32) - 8
    else:
      whole = lax.bitcast_convert_type(packed, jnp.int8).astype(jnp.float32)
    blocks = whole.reshape(n, num_blocks, size) * scale[..., None]
    return blocks.reshape(n, -1)[:, :width]

  def _even_block_size(self, width):
    """Fill all blocks alike, so that the last one is not mostly padding."""
    count = -(-width // self.block_size)
    size = -(-width // count)
    return size + size % 2
