"""How long a collective takes on two kinds of network.

Bandwidth, and a latency for each hop. Nothing else runs, no link fails, and
the chips fill the network. The figures of the hardware are those of its
vendors, one direction: what a program reaches is less, alike for all ways.
"""

import dataclasses
import math
from typing import Protocol

from experiments.cost.at_scale.exchanges import Collective


class Network(Protocol):
  """A network with n chips."""

  def parts(self, n: int) -> tuple[int, int]:
    """Return the number of chips in a group, and of groups."""
    ...

  def seconds(self, collective: Collective, n: int) -> float:
    """Return how long a collective takes if there are n chips."""
    ...


@dataclasses.dataclass(frozen=True)
class Torus:
  """Chips on a torus whose dimensions are as even as can be.

  A group is all chips at one place of the longest dimension. A side of two
  chips has one link, a longer one is closed to a ring.

  Attributes:
    dimensions: Number of dimensions.
    bandwidth: Bytes per second of a link, one direction.
    latency: Seconds for each hop.
    flops: Operations per second of a product in float32.
  """

  dimensions: int
  bandwidth: float
  latency: float
  flops: float

  def sides(self, n: int) -> list[int]:
    """Return the sides for n chips, a power of two, the longest first."""
    power = round(math.log2(n))
    if 2**power != n:
      raise ValueError(f'n={n!r}: must be a power of two')
    low, more = divmod(power, self.dimensions)
    return [2 ** (low + (i < more)) for i in range(self.dimensions)]

  def parts(self, n: int) -> tuple[int, int]:
    longest = self.sides(n)[0]
    return n // longest, longest

  def seconds(self, collective: Collective, n: int) -> float:
    sides = self.sides(n)
    sides = {'all': sides, 'group': sides[1:], 'of each': sides[:1]}[
      collective.part]
    sides = [side for side in sides if side > 1]
    count = math.prod(sides)
    if count == 1:
      return 0.0
    links = [1 if side == 2 else 2 for side in sides]
    hops = sum(side // 2 for side in sides)
    # Every chip sends on all its links.
    slices = (count - 1) / count * collective.size / (
      sum(links) * self.bandwidth)
    if collective.kind == 'permute':
      return collective.size / self.bandwidth + self.latency
    if collective.kind == 'all-reduce':
      return 2 * (slices + hops * self.latency)
    if collective.kind == 'all-to-all':
      # A quarter of all bytes crosses the middle of each side, one way.
      middle = max(collective.size * side / (4 * link * self.bandwidth)
                   for side, link in zip(sides, links))
      slices = max(slices, middle)
    return slices + hops * self.latency


@dataclasses.dataclass(frozen=True)
class Hosts:
  """Hosts of chips that are joined inside, each chip with a network card.

  A group is one host. Collectives of all chips run inside the hosts first and
  send slices between them.

  Attributes:
    chips: Chips of a host.
    inside: Bytes per second of a chip to the others of its host.
    between: Bytes per second of a chip's network card.
    latency: Seconds for each message.
    flops: Operations per second of a product in float32.
  """

  chips: int
  inside: float
  between: float
  latency: float
  flops: float

  def parts(self, n: int) -> tuple[int, int]:
    group = min(n, self.chips)
    return group, n // group

  def seconds(self, collective: Collective, n: int) -> float:
    group, hosts = self.parts(n)
    size, kind = collective.size, collective.kind
    group = 1 if collective.part == 'of each' else group
    hosts = 1 if collective.part == 'group' else hosts
    if group * hosts == 1:
      return 0.0
    near, far = (group - 1) / group, (hosts - 1) / hosts
    start = self.latency * math.log2(group * hosts)
    if kind == 'permute':
      return size / (self.between if hosts > 1 else self.inside) + self.latency
    if kind == 'all-to-all':
      return max(far * size / self.between,
                 near / hosts * size / self.inside) + start
    once = near * size / self.inside + far * size / group / self.between + start
    return 2 * once if kind == 'all-reduce' else once


# TPU v5p, 1,200 GB/s a chip over three dimensions, both directions:
# https://docs.cloud.google.com/tpu/docs/v5p. A product in float32 takes six
# passes of bfloat16 at 459 TFLOP/s.
TPU_TORUS = Torus(3, 100e9, 1e-6, 459e12 / 6)
# H100: NVLink of 900 GB/s, both directions, and a card of 400 Gbit/s; 67
# TFLOP/s in float32.
GPU_HOSTS = Hosts(8, 450e9, 50e9, 5e-6, 67e12)
NETWORKS: dict[str, Torus | Hosts] = {
  'TPU v5p, 3-D torus': TPU_TORUS, 'H100, hosts of 8': GPU_HOSTS}
