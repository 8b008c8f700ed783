"""The batch sizes that a controller may choose."""

import dataclasses
import math

from gradiv._common import checks


@dataclasses.dataclass(frozen=True)
class Ladder:
  """Batch sizes least, 2·least, 4·least, … up to most.

  A program is compiled once for each of them, and for no other.

  >>> Ladder(16, 128).sizes
  (16, 32, 64, 128)

  Attributes:
    least: Smallest batch size, in examples.
    most: Largest batch size; `least` times a power of two.

  Raises:
    ValueError: If `most` is not `least` times a power of two.
  """

  least: int
  most: int

  def __post_init__(self) -> None:
    checks.count('least', self.least, 1)
    checks.count('most', self.most, self.least)
    if self.most not in self.sizes:
      raise ValueError(f'most={self.most!r}: must be least={self.least!r} '
                       'times a power of two')

  @property
  def sizes(self) -> tuple[int, ...]:
    """All batch sizes, rising."""
    num = (self.most // self.least).bit_length()
    return tuple(self.least * 2**k for k in range(num))

  def nearest(self, size: float) -> int:
    """Return the batch size nearest to a positive number in the logarithm.

    >>> Ladder(16, 128).nearest(46.), Ladder(16, 128).nearest(math.inf)
    (64, 128)
    """
    return self._rung(size, round)

  def at_least(self, size: float) -> int:
    """Return the smallest batch size that is as large, or else the largest.

    >>> Ladder(16, 128).at_least(33.), Ladder(16, 128).at_least(500.)
    (64, 128)
    """
    return self._rung(size, math.ceil)

  def check(self, batch_size: int) -> None:
    """Raise ValueError unless the batch size is on the ladder."""
    if batch_size not in self.sizes:
      raise ValueError(
        f'batch_size={batch_size!r}: must be one of {self.sizes}')

  def _rung(self, size, rounded):
    if size <= self.least:
      return self.least
    if size >= self.most:
      return self.most
    return self.least * 2 ** rounded(math.log2(size / self.least))
