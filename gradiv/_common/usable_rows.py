"""Learn in passing which gradients of one device are usable.

Whether a gradient is usable depends on its squared norm (`trees.is_usable`),
and squared norms take a pass over all gradients, as long as that of a mean. But
if no element is large, no norm is, and the pass that averages can tell that as
well. Norms are computed only if one of the elements is large or NaN.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType

from gradiv._common import one_device, trees

# A norm up to which a gradient is usable, however its square is rounded.
CERTAIN_NORM = 5e16
# Elements that are reduced one by one; more are compared as vectors first.
_FEW, _AT_ONCE = 2048, 16


def largest_element(norm: float, num_elements: int) -> float:
  """Return up to which magnitude of all elements no norm is above `norm`.

  >>> largest_element(10., 4)
  5.0
  """
  return norm / math.sqrt(max(num_elements, 1))


def all_within(tree: Any, most: float) -> jax.Array:
  """Return whether no element of a tree is above `most`, or NaN.

  >>> bool(all_within(jnp.array([1., -2.]), 2.))
  True
  >>> bool(all_within(jnp.array([1., jnp.nan]), 2.))
  False
  """
  beyond = lambda x: jnp.where(jnp.abs(x) <= most, 0., 1.)
  # Where an array may lie in shards, to flatten it would send it around.
  found = [beyond(x).max() if _may_be_sharded(x)
           else _largest(x.ravel(), beyond)
           for x in jax.tree.leaves(tree) if x.size]
  return functools.reduce(jnp.maximum, found, jnp.float32(0)) == 0


def are_usable(grads: Any, n: int) -> jax.Array:
  """Return which of n gradients are usable, [n], for leaves [n, ...]."""
  return trees.is_usable(jax.vmap(trees.sq_norm, axis_size=n)(grads))


def mean(grads: Any) -> tuple[Any, jax.Array]:
  """Average the usable gradients, leaves [n, ...], in at least float32.

  Returns:
    The mean, or zeros if none is usable, and which are usable, [n].
  """
  leaves = jax.tree.leaves(grads)
  n, size = len(leaves[0]), sum(x[0].size for x in leaves)
  most = largest_element(CERTAIN_NORM, size)

  def or_nan(x):
    wide = trees.widen(x)
    return jnp.where(jnp.abs(wide) <= most, wide, jnp.nan)

  # Divided by a number that the compiler does not know: the quotient, not the
  # product with a rounded reciprocal.
  count = lax.optimization_barrier(jnp.float32(n))
  found = jax.tree.map(
    lambda rows: one_device.sum_rows(rows, of=or_nan) / count, grads)
  return unless(
    all_within(found, most), lambda: _careful_mean(grads, n),
    (found, jnp.ones(n, bool)))


def unless(is_right: jax.Array, otherwise: Any, value: Any) -> Any:
  """Return `value` if it is right, else what `otherwise` computes.

  A loop of at most one round: unlike a `cond`, it does not copy the value, and
  under `vmap` it computes both only if some lane needs it. It has no reverse
  derivative: call it within `one_device.directly`, which brings its own.

  >>> unless(jnp.array(False), lambda: jnp.float32(1), jnp.float32(0)).tolist()
  1.0
  """
  return lax.while_loop(
    lambda state: ~state[0], lambda state: (jnp.array(True), otherwise()),
    (is_right, value))[1]


def _careful_mean(grads, n):
  kept = are_usable(grads, n)
  count = jnp.maximum(kept.sum(), 1).astype(jnp.float32)
  return jax.tree.map(
    lambda rows: _sum_kept(rows, kept) / count, grads), kept


def _sum_kept(rows, kept):
  """Sum the rows that are kept, in their order, in a loop."""
  rows = jnp.asarray(rows)  # outside of jit, they may be NumPy's
  row = lambda i: jnp.where(kept[i], trees.widen(rows[i]), 0)
  return lax.fori_loop(
    1, len(rows), lambda i, total: total + row(i), row(0))


def _may_be_sharded(x):
  mesh = jax.typeof(x).sharding.mesh
  return any(size > 1 and kind != AxisType.Manual
             for size, kind in zip(mesh.axis_sizes, mesh.axis_types))


def _largest(x, of):
  """Return the largest ``of(x)`` of a vector, which must not be empty."""
  while x.size > _FEW:
    size = -(-x.size // _AT_ONCE)
    # The last part begins early, as each must be whole.
    starts = [min(i * size, x.size - size) for i in range(_AT_ONCE)]
    parts = [of(x[start:start + size]) for start in starts]
    x, of = functools.reduce(jnp.maximum, parts), lambda x: x
  return of(x).max()
