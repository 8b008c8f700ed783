"""Numbers as bytes: blocks of 8 or 4 bits, each block with its own scale.

A block holds integers from −L to L, with L = 127 or 7, times its largest
magnitude divided by L. Numbers are rounded at random, so that E = v. The bytes
of all blocks are followed by their scales as float32.

A number is rounded in fixed point: as the integer v · L · 2^f / max, plus f
random bits, shifted right by f bits. f is 24 with 8 bits and 28 with 4, as 32
bits hold. So v keeps its mean up to 2^−f of a level.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from gradiv._common import checks, hashing
from gradiv.compression import _lanes

LARGEST = {8: 127, 4: 7}
# Below it the scale of a block would be subnormal, so it is set to zero.
_TINY = 1e-35
_MANY_BLOCKS = 32


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

  def even_block_size(self, width: int) -> int:
    """Fill all blocks alike, so that the last one is not mostly padding."""
    count = -(-width // self.block_size)
    size = -(-width // count)
    # Reductions are faster then, and of many blocks it wastes little.
    multiple = _lanes.LANES if count >= _MANY_BLOCKS else 2
    return min(size + -size % multiple, self.block_size)

  def scale(self, blocks: jax.Array) -> jax.Array:
    """Return what the integers of blocks [..., chunks, lanes] stand for."""
    scale = _lanes.largest_magnitude(blocks) / LARGEST[self.num_bits]
    return jnp.where(scale < _TINY, 0, scale)  # NaN stays.

  def round_to(
    self, scale: jax.Array, words: jax.Array, blocks: jax.Array,
    first: jax.Array | int,
  ) -> jax.Array:
    """Round blocks [..., chunks, lanes] at random to integers, from −L to L.

    Args:
      scale: That of each block, [...].
      words: Those of the key (`hashing.words`).
      blocks: Numbers in float32.
      first: Place of the first element of each row of blocks among all that
        its key rounds. Each place has random bits of its own.
    """
    largest, fraction = LARGEST[self.num_bits], 32 - self.num_bits
    # In two factors, as their product may overflow.
    place = blocks * jnp.where(scale == 0, 0, 1 / scale)[..., None, None]
    place = (place * 2.0**fraction).astype(jnp.int32)
    place = jnp.clip(place, -largest << fraction, largest << fraction)
    bits = hashing.bits(words, hashing.places(blocks.shape[-3:], first))
    return (place + (bits >> self.num_bits).astype(jnp.int32)) >> fraction

  def round(
    self, words: jax.Array, blocks: jax.Array, first: jax.Array | int
  ) -> tuple[jax.Array, jax.Array]:
    """Return the integers of blocks, as `round_to` does, and their scales."""
    scale = self.scale(blocks)
    return self.round_to(scale, words, blocks, first), scale

  def dequantize(self, whole: jax.Array, scale: jax.Array) -> jax.Array:
    """Multiply integers by the scales of their blocks."""
    return whole.astype(jnp.float32) * scale[..., None, None]

  def encode(
    self, key: jax.Array, rows: jax.Array, first: jax.Array | int = 0
  ) -> jax.Array:
    """Round [n, width] float32 at random to [n, bytes] uint8.

    Args:
      key: Random key.
      rows: The numbers.
      first: Place of the first element, as in `round`.
    """
    n, width = rows.shape
    size = self.even_block_size(width)
    blocks = jnp.pad(rows, ((0, 0), (0, -width % size)))
    whole, scale = self.round(
      hashing.words(key), blocks.reshape(-1, *_lanes.shape(size)), first)
    scale = lax.bitcast_convert_type(scale, jnp.uint8)
    return jnp.concatenate(
      [self._join(whole).reshape(n, -1), scale.reshape(n, -1)], 1)

  def decode(self, payload: jax.Array, width: int) -> jax.Array:
    """Read [n, bytes] uint8 as [n, width] float32."""
    parts, scale = self._split(payload, width)
    rows = self.dequantize(jnp.concatenate(parts, -2), scale)
    return rows.reshape(len(payload), -1)[:, :width]

  def sum(
    self, payload: jax.Array, width: int, present: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Sum the rows that are present: [width], and the squared norms of all."""
    parts, scale = self._split(payload, width)
    scale = jnp.where(present[:, None], scale, 0)
    total = jnp.concatenate([_lanes.add(
      lambda i, part=part: self.dequantize(part[i], scale[i]), len(payload))
      for part in parts], -2)
    squares = sum(_lanes.sum_of_squares(part) for part in parts)
    return total.ravel()[:width], jnp.sum(squares * scale**2)

  def _join(self, whole):
    """Write integers as bytes; of 4 bits, the halves of a block share them."""
    if self.num_bits == 8:
      return lax.bitcast_convert_type(whole.astype(jnp.int8), jnp.uint8)
    whole = whole.reshape(len(whole), 2, -1)
    low, high = whole[:, 0] & 15, whole[:, 1] & 15
    return (low | high << 4).astype(jnp.uint8)

  def _split(self, payload, width):
    """Read the integers, parts of each block in int32, and the scales."""
    n, size = len(payload), self.even_block_size(width)
    num_blocks = -(-width // size)
    packed, scale = payload[:, :-4 * num_blocks], payload[:, -4 * num_blocks:]
    scale = lax.bitcast_convert_type(
      scale.reshape(n, num_blocks, 4), jnp.float32)
    packed = lax.bitcast_convert_type(packed, jnp.int8).astype(jnp.int32)
    shape = _lanes.shape(size * self.num_bits // 8)
    packed = packed.reshape(n, num_blocks, *shape)
    if self.num_bits == 8:
      return [packed], scale
    return [packed << 28 >> 28, packed >> 4], scale
