"""The two levels between which stochastic rounding chooses, per coordinate.

The magnitude of a coordinate lies between a level `low` and the next one,
`low + gap`. Rounding up with probability f, `chance`, keeps its mean.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradiv._common import checks, trees

METHODS = ('norm', 'max', 'natural')
# The reciprocal of a larger scale, by which XLA divides, would flush to 0.
_LARGEST_SCALE = 1e37


class Levels(NamedTuple):
  """The levels around the magnitude of each coordinate of a leaf.

  Attributes:
    low: The level below.
    gap: Distance from `low` to the level above.
    chance: Probability f of rounding up, below 1.
  """

  low: jax.Array
  gap: jax.Array
  chance: jax.Array


def check(num_levels: int, method: str, bucket_size: int | None) -> None:
  """Raise ValueError if an argument of `find` is invalid."""
  checks.count('num_levels', num_levels, 1)
  checks.choice('method', method, METHODS)
  if bucket_size is not None:
    checks.count('bucket_size', bucket_size, 1)
  if method == 'natural' and (num_levels, bucket_size) != (1, None):
    raise ValueError(
      f'num_levels={num_levels!r}, bucket_size={bucket_size!r}: must be 1 and '
      "None with method='natural', whose levels are the powers of two")


def find(
  tree: Any, num_levels: int, method: str, bucket_size: int | None
) -> Any:
  """Return a tree with the `Levels` of each leaf."""
  magnitudes = jax.tree.map(lambda v: jnp.abs(trees.widen(v)), tree)
  if method == 'natural':
    return jax.tree.map(_powers_of_two, magnitudes)
  norm = _norm if method == 'norm' else _largest
  if bucket_size is None:
    scale = norm(jax.tree.leaves(magnitudes))
    return jax.tree.map(
      lambda v: _multiples(v, scale, num_levels), magnitudes)

  def leaf(v):
    size = min(bucket_size, max(v.size, 1))
    rows = jnp.pad(v.ravel(), (0, -v.size % size)).reshape(-1, size)
    scales = jax.vmap(lambda row: norm([row]))(rows)[:, None]
    return jax.tree.map(lambda x: x.ravel()[:v.size].reshape(v.shape),
                        _multiples(rows, scales, num_levels))

  return jax.tree.map(leaf, magnitudes)


def _multiples(v, scale, num_levels):
  """Find the multiples of scale/s around each v; zeros if the scale is 0."""
  scale = _nan_if_too_large(scale)
  safe = jnp.where(scale == 0, 1, scale)
  place = jnp.minimum(v / safe, 1) * num_levels
  low = jnp.floor(place)
  gap = jnp.broadcast_to(scale / num_levels, v.shape)
  return Levels(low * gap, gap, place - low)


def _powers_of_two(v):
  """Find the powers of two around each v."""
  mantissa, exponent = jnp.frexp(v)  # v = mantissa · 2^exponent, from ½ to 1
  low = jnp.ldexp(jnp.ones_like(v), exponent - 1)
  low = jnp.where(v == 0, 0, jnp.where(jnp.isfinite(v), low, jnp.nan))
  return Levels(low, low, jnp.maximum(2 * mantissa - 1, 0))


def _nan_if_too_large(scale):
  return jnp.where(scale < _LARGEST_SCALE, scale, jnp.nan)


def _largest(leaves):
  return _nan_if_too_large(jnp.stack(
    [jnp.max(v, initial=0) for v in leaves] or [jnp.float32(0)]).max())


def _norm(leaves):
  """Compute ‖v‖₂ relative to the largest coordinate, as v² could overflow."""
  largest = _largest(leaves)
  safe = jnp.where(largest == 0, 1, largest)
  return largest * jnp.sqrt(
    sum((trees.sq_norm(v / safe) for v in leaves), jnp.float32(0)))
