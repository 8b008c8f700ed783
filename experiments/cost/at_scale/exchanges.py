"""The collectives of each way to combine the gradients of n workers.

The workers lie on two axes: those of a *group*, and the groups. A flat way
has all workers in one group. Bytes are those of the compiled programs, which a
test holds them to.
"""

from collections.abc import Callable
from typing import NamedTuple

FLOAT = 4  # bytes
# Largest number of elements that share a float32 scale on the quantized wire.
BLOCK = 256


class Collective(NamedTuple):
  """A collective of each chip with the other chips of its part.

  Attributes:
    kind: 'all-reduce', 'all-to-all', 'all-gather', 'reduce-scatter', or
      'permute' to a neighbor.
    size: Bytes of the whole array: of the operand, but for an all-gather of
      the result.
    part: Who takes part: 'all' chips, those of one 'group', or one chip
      'of each' group.
  """

  kind: str
  size: float
  part: str = 'all'

  def sent(self, n: int) -> float:
    """Return the bytes that one of n participants sends on a ring."""
    share = (n - 1) / n
    return self.size * {'all-reduce': 2 * share, 'permute': 1.0}.get(
      self.kind, share)


class Exchange(NamedTuple):
  """What one step of a way to combine gradients sends and computes.

  Attributes:
    collectives: In the order in which they run.
    flops: Operations of the Gram matrix on each chip, in float32.
  """

  collectives: tuple[Collective, ...]
  flops: float = 0.0


def _mean(size: float, part: str = 'all') -> Exchange:
  return Exchange((Collective('all-reduce', FLOAT * (size + 1), part),))


def _rule(size: float, n: int, part: str = 'all') -> Exchange:
  """Exchange slices, sum their Gram matrices, and return the weighted sum."""
  if n == 2:  # the distance of the two follows from the mean
    return Exchange((Collective('all-reduce', FLOAT * (size + 7), part),))
  return Exchange(
    (Collective('all-to-all', FLOAT * size, part),
     Collective('all-reduce', FLOAT * (n * n + n + 1), part),
     Collective('all-gather', FLOAT * size, part)), 2 * n * size)


def _quantized(num_bits: int) -> Callable[[float, int], Exchange]:
  def exchange(size, n):
    wire = size * (num_bits / 8 + FLOAT / BLOCK)
    return Exchange((
      Collective('all-to-all', wire),
      Collective('all-reduce', FLOAT * (n + 3)),
      Collective('all-gather', wire)))
  return exchange


def _tracked(size: float, n: int) -> Exchange:
  del n
  return Exchange((*_mean(size).collectives, Collective('all-reduce', FLOAT)))


def _gram(size: float, n: int) -> Exchange:
  return Exchange(
    (Collective('all-to-all', FLOAT * size),
     Collective('all-reduce', FLOAT * (n * n + n))), 2 * n * size)


def _ring(size: float, n: int) -> Exchange:
  return Exchange((Collective('permute', FLOAT * size),) * min(2, n - 1))


def _gathered(size: float, n: int) -> Exchange:
  return Exchange(
    (Collective('all-gather', FLOAT * size * n),), 2 * n * n * size)


# Each takes the number of parameters D and the number of workers n.
FLAT: dict[str, Callable[[float, int], Exchange]] = {
  'mean': lambda size, n: _mean(size),
  'mean with tracked moments': _tracked,
  'Gram matrix': _gram,
  'a rule of the Gram matrix': _rule,
  '8-bit mean': _quantized(8),
  '4-bit mean': _quantized(4),
  'gossip on a ring': _ring,
  'a rule that gathers all gradients': _gathered,
}


def _rule_inside(size, group, num_groups):
  """Run the rule in each group, then average what the groups return."""
  del num_groups
  first, then = _rule(size, group, 'group'), _mean(size, 'of each')
  return Exchange(first.collectives + then.collectives, first.flops)


def _rule_of_means(size, group, num_groups):
  """Average in each group (`Layout.mean_over`), then run the rule.

  Each chip of a group takes its part of the mean through the rule. Who is
  finite, and the Gram matrix, are sums over all chips.
  """
  n, part = num_groups, FLOAT * size / group
  return Exchange((
    Collective('reduce-scatter', FLOAT * size, 'group'),
    Collective('all-to-all', part, 'of each'),
    Collective('all-reduce', FLOAT * n), Collective(
      'all-reduce', FLOAT * (n * n + n + 1)),
    Collective('all-gather', part, 'of each'),
    Collective('all-gather', FLOAT * size, 'group')), 2 * n * size / group)


def _rule_of_slices(size, group, num_groups):
  """Reduce-scatter in each group, run the rule on slices, and gather.

  The second axis is then named in `Layout.sharded_over`.
  """
  then = _rule(size / group, num_groups, 'of each')
  gram = Collective('all-reduce', FLOAT * num_groups**2, 'group')
  return Exchange((
    Collective('reduce-scatter', FLOAT * size, 'group'), *then.collectives,
    gram, Collective('all-gather', FLOAT * size, 'group')), then.flops)


# Each takes D, the workers of a group, and the number of groups.
HIERARCHICAL: dict[str, Callable[[float, int, int], Exchange]] = {
  'rule inside, mean between': _rule_inside,
  'mean inside, rule between (mean_over)': _rule_of_means,
  'slices inside, rule between (sharded_over)': _rule_of_slices,
}
