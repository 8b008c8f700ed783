"""The cost of each way to a norm, from shapes alone.

An example has a product Σ_k u_k ⊗ v_k of z blocks, k positions and sides a and
b. Costs are in floating-point operations; moving a number counts as many as
fit into its time.
"""

import math
from typing import NamedTuple

import jax

# Two CPU cores have a ratio of 20 to 40, accelerators 30 to 100.
FLOPS_PER_NUMBER = 32

# How many numbers may be held for all examples of a gradient that is written
# out; or as many as there are parameters, if that is more.
WHOLE = 2**22

# How many cores of a CPU share a chunk of examples, with the numbers of `room`
# for each. With one example in a chunk, the others often have nothing to do.
CORES = 2


class Way(NamedTuple):
  """A way to the squared norms of n products.

  Attributes:
    name: 'outer', 'gram' or 'direct'.
    flops: Operations beyond those of a plain step, for all examples.
    numbers: Numbers written and read beyond those of a plain step.
  """

  name: str
  flops: int
  numbers: int

  @property
  def cost(self) -> int:
    """The weighted sum of both, in floating-point operations."""
    return self.flops + FLOPS_PER_NUMBER * self.numbers


def ways(
  num_examples: int, sizes: tuple[int, int, int, int], extra: int = 0,
  hot: int = 0,
) -> list[Way]:
  """List the possible ways to ‖Σ_k u_k ⊗ v_k‖².

  * outer: ‖u‖²‖v‖², if there is one position; always the cheapest then.
  * gram: Σ_kl ⟨u_k, u_l⟩⟨v_k, v_l⟩, from two [k, k] matrices.
  * direct: the product [a, b] itself, some examples at a time.

  >>> [way.name for way in ways(8, (1, 1, 512, 512))]
  ['outer']
  >>> gram, direct = ways(8, (1, 4, 512, 512))
  >>> gram.cost < direct.cost
  True

  Args:
    num_examples: n.
    sizes: (z, k, a, b).
    extra: Numbers that the factors hold beyond those of the operands.
    hot: Width of a factor whose rows are one-hot: their inner products only
      compare indices.
  """
  n, (z, k, a, b) = num_examples, sizes
  read = z * k * (a + b - hot)
  if k == 1:
    return [Way('outer', 2 * n * read, n * (read + extra))]
  return [
    Way('gram', 2 * n * k * read, n * (4 * z * k * k + 2 * extra)),
    # Forming the product costs what it costs in a plain step, and the sum over
    # examples comes along: only the squares are extra.
    Way('direct', 2 * n * z * a * b, n * (2 * z * a * b + 2 * extra)),
  ]


def best(ways: list[Way]) -> Way:
  """Return the cheapest way."""
  return min(ways, key=lambda way: way.cost)


def room(platform: str | None = None) -> int:
  """Return how many numbers to write out at once.

  On a CPU, as many as stay in its cache; on an accelerator, enough to keep it
  busy.

  Args:
    platform: 'cpu' or another; that of jax's default device if None.
  """
  return 2**18 if (platform or jax.default_backend()) == 'cpu' else 2**24


def limits() -> tuple[int, ...]:
  """Return all limits, on which choices rest besides shapes."""
  return WHOLE, room(), room('cpu')


def chunk(
  num_examples: int, numbers: int, num_shards: int = 1,
  platform: str | None = None,
) -> tuple[int, int]:
  """Return the sizes of the first chunk and of each of the others.

  They are all of one size if that is more than half of the largest that is
  possible. Otherwise the first is smaller.

  >>> chunk(12, 10**9), chunk(12, 1)
  ((1, 1), (12, 12))
  >>> chunk(127, CORES * room('cpu') // 16, platform='cpu')  # 15 + 7 · 16
  (15, 16)
  >>> chunk(16, CORES * room('cpu') // 3, platform='cpu')  # not 1 + 5 · 3
  (2, 2)
  >>> chunk(12, 10**9, num_shards=4)  # one example on each of four devices
  (4, 4)

  Args:
    num_examples: n.
    numbers: How many numbers are written out per example.
    num_shards: In how many shards the examples may lie; each takes part in
      every chunk, with as many examples as the others. Only what it has in
      common with n counts.
    platform: As in `room`.
  """
  each = math.gcd(num_examples, num_shards)
  own = num_examples // each
  is_cpu = (platform or jax.default_backend()) == 'cpu'
  there = room(platform) * (CORES if is_cpu else 1)
  most = max(1, min(own, there // max(numbers, 1)))
  count = -(-own // most)
  # Chunks of one size are compiled once.
  even = (c for c in range(count, 2 * count)
          if own % c == 0 and 2 * own // c > most)
  size = -(-own // next(even, count))
  first = own - size * ((own - 1) // size)
  return each * first, each * size
