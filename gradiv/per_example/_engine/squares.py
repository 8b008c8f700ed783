"""Squared norms in parts, which many parameters add up together.

The squared norm of one product is a sum over pairs of positions, and that of a
gradient written out is one over its elements. Added up parameter by parameter,
each would need a loop of its own, which takes longer to compile than to run
where arrays are small. So small parts are kept, [n, ...], and a few of one
size are first added to one another.
"""

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gradiv.per_example._engine import costs

# How many parts are added at once. More would be compiled more slowly: XLA on
# CPU compiles loops that are alike only once.
_AT_ONCE = 8


def kept(parts: jax.Array) -> jax.Array:
  """Return parts [n, ...] as they are if they are small, else their sum [n]."""
  return parts if parts.size * _AT_ONCE <= costs.room() else total(parts)


def total(parts: jax.Array) -> jax.Array:
  """Add parts up: [n, ...] to [n]."""
  return parts if parts.ndim == 1 else jnp.sum(
    parts, tuple(range(1, parts.ndim)))


def add_up(several: Sequence[jax.Array]) -> jax.Array:
  """Add up the parts [n, ...] of several squared norms: [n]."""
  alike: dict[tuple, list[jax.Array]] = {}
  for parts in several:
    alike.setdefault((parts.size, parts.dtype), []).append(parts)
  sums = [_sum_of_all(same[i:i + _AT_ONCE]) for same in alike.values()
          for i in range(0, len(same), _AT_ONCE)]
  # Of numbers of either sign: where they cancel, rounding is left.
  return jnp.maximum(functools.reduce(operator.add, sums), 0)


@jax.jit
def _sum_of_all(same):
  flat = [parts.reshape(len(parts), -1) for parts in same]
  return total(functools.reduce(operator.add, flat))
