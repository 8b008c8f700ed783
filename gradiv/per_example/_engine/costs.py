"""What the ways to a norm cost, from shapes alone.

A product Σ_k u_k ⊗ v_k of z blocks, k positions and sides a and b, for each
example. Costs are in floating-point operations, a number moved counting as
many as fit into its time.
"""

from typing import NamedTuple

import jax

# Of some machines: two CPU cores 20 to 40, an accelerator 30 to 100.
_FLOPS_PER_NUMBER = 32

# How many numbers of gradients that cannot be cut may be written out whole,
# where the parameters are fewer.
WHOLE = 2**22


class Way(NamedTuple):
  """A way to the squared norms of n products.

  Attributes:
    name: 'outer', 'gram' or 'direct'.
    flops: On top of those of the plain step, for all examples.
    numbers: That are written and read on top of it.
  """

  name: str
  flops: int
  numbers: int

  @property
  def cost(self) -> int:
    """Weigh both, in floating-point operations."""
    return self.flops + _FLOPS_PER_NUMBER * self.numbers


def ways(
  num_examples: int, sizes: tuple[int, int, int, int], extra: int = 0
) -> list[Way]:
  """List what is possible; with one position, ‖u‖²‖v‖² is not to be beaten.

  >>> [way.name for way in ways(8, (1, 1, 512, 512))]
  ['outer']
  >>> gram, direct = ways(8, (1, 4, 512, 512))
  >>> gram.cost < direct.cost
  True

  Args:
    num_examples: n.
    sizes: (z, k, a, b).
    extra: Numbers that the factors hold and the operands do not.
  """
  n, (z, k, a, b) = num_examples, sizes
  read = z * k * (a + b)
  if k == 1:
    return [Way('outer', 2 * n * read, n * (read + extra))]
  return [
    Way('gram', 2 * n * k * read, n * (4 * z * k * k + 2 * extra)),
    # The product is that of the plain step, whose sum comes along.
    Way('direct', 2 * n * z * a * b, n * (2 * z * a * b + 2 * extra)),
  ]


def best(ways: list[Way]) -> Way:
  """Choose the cheapest."""
  return min(ways, key=lambda way: way.cost)


def room() -> int:
  """Tell how many numbers to write out at once.

  As many as stay in the cache of a CPU; on accelerators, enough to keep them
  busy.
  """
  return 2**18 if jax.default_backend() == 'cpu' else 2**24


def chunk(num_examples: int, numbers: int) -> int:
  """Tell how many examples of so many numbers to take at once; a divisor.

  >>> chunk(12, 10**9), chunk(12, 1)
  (1, 12)
  """
  fitting = max(1, min(num_examples, room() // max(numbers, 1)))
  return max(c for c in range(1, fitting + 1) if num_examples % c == 0)
