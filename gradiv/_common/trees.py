"""Arithmetic on trees of arrays, in at least float32."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Room for the squares of sums of up to some hundred such gradients.
_ROOM = 2.0**16


def sq_norm(tree: Any) -> jax.Array:
  """Compute the squared norm of a tree (or of one array), at least float32.

  The products are elementwise because a dot product may run in reduced
  precision on an accelerator.
  """
  def square(x):
    x = widen(x)
    return jnp.sum(jnp.real(x * jnp.conj(x)))

  return sum(map(square, jax.tree.leaves(tree)), jnp.float32(0))


def dot(a: Any, b: Any) -> jax.Array:
  """Compute the inner product of two trees, elementwise as in `sq_norm`."""
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return sum((jnp.sum(widen(x) * widen(y)) for x, y in pairs), jnp.float32(0))


def wide_dtype(dtype: Any) -> Any:
  """Return the narrowest dtype with at least the precision of float32."""
  return jnp.promote_types(dtype, jnp.float32)


def widen(tree: Any) -> Any:
  """Cast each leaf to at least the precision of float32."""
  return jax.tree.map(lambda x: x.astype(wide_dtype(x.dtype)), tree)


def zeros_wide(tree: Any) -> Any:
  """Create zeros like a tree, in at least float32, on the same devices.

  The leaves may be `jax.ShapeDtypeStruct`s, as in a checkpoint's template.
  """
  return jax.tree.map(
    lambda x: jnp.zeros_like(x, dtype=wide_dtype(x.dtype)), tree)


def all_finite(tree: Any) -> jax.Array:
  """Return whether every element of every leaf is finite."""
  return functools.reduce(
    jnp.logical_and, (jnp.isfinite(x).all() for x in jax.tree.leaves(tree)),
    jnp.array(True))


def keep_if(keep: jax.Array, tree: Any) -> Any:
  """Return the tree, or zeros unless `keep`; a product would keep NaN."""
  return jax.tree.map(lambda x: jnp.where(keep, x, jnp.zeros_like(x)), tree)


def select(is_new: jax.Array, new: Any, old: Any) -> Any:
  """Return the tree `new` where `is_new`, else `old`."""
  return jax.tree.map(lambda x, y: jnp.where(is_new, x, y), new, old)


def is_usable(square: jax.Array) -> jax.Array:
  """Return whether a gradient is usable, given its squared norm.

  Norms above 7e16 count as non-finite, because squared sums of such gradients
  would overflow float32.
  """
  return jnp.isfinite((_ROOM * square).astype(jnp.float32))


def check_floating(
    tree: Any, what: str = 'gradient', *, or_complex: bool = False) -> None:
  """Raise ValueError if a leaf is not a floating-point (or complex) array."""
  allowed = jnp.inexact if or_complex else jnp.floating
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    dtype = getattr(leaf, 'dtype', None)
    if dtype is None or not jnp.issubdtype(dtype, allowed):
      found = f'is {leaf!r}' if dtype is None else f'has dtype {dtype}'
      raise ValueError(f'{what}{jax.tree_util.keystr(path)} {found}: must be '
                       'an array of dtype floating'
                       + or_complex * ' or complex')


def split_arrays(
  tree: Any
) -> tuple[list[jax.Array], Callable[[Sequence[jax.Array]], Any]]:
  """Return the arrays in a tree, and a function that puts others in place.

  Other leaves, such as Python numbers, stay what they are.
  """
  leaves, treedef = jax.tree.flatten(tree)
  is_array = [isinstance(x, (jax.Array, np.ndarray)) for x in leaves]

  def rebuild(arrays):
    given = iter(arrays)
    return treedef.unflatten(
      next(given) if array else x for x, array in zip(leaves, is_array))

  return [x for x, array in zip(leaves, is_array) if array], rebuild


def per_leaf(tree: Any, make: Any) -> Any:
  """Return a tuple of ``make(path, leaf)``, which `map_params` passes over.

  `optax.tree.map_params` finds parameter-like state by calling ``init`` on a
  tree without leaves, and takes a part of the state with the structure of that
  tree for parameter-like. State that belongs to a leaf but has another shape,
  such as a buffer of several updates, must not be found: a PartitionSpec of
  the parameter would not fit it. A tree without leaves gives one array that
  stands for nothing.
  """
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  if not leaves:
    return jnp.zeros((), bool)
  return tuple(make(path, leaf) for path, leaf in leaves)


def only_state(opt_state: Any, kind: type, of: str) -> Any:
  """Find the only state of a kind in the state of a chain.

  Args:
    opt_state: Any tree.
    kind: A `NamedTuple` of arrays.
    of: What has such a state, for the error.

  Raises:
    ValueError: If there is none, or more than one.
  """
  is_state = lambda x: isinstance(x, kind)
  found = [x for x in jax.tree.leaves(opt_state, is_leaf=is_state)
           if is_state(x)]
  if len(found) != 1:
    raise ValueError(
      f'opt_state holds {len(found)} states of {of}: must be one; of several, '
      'pass the one to read, such as opt_state[0]')
  return found[0]


def unwrapped(state: Any) -> Any:
  """Take the arrays of a tuple out of what they are wrapped in.

  nnx.Optimizer wraps each array in a variable, which is itself a tree.
  """
  return jax.tree.map(lambda x: jnp.asarray(jax.tree.leaves(x)[0]), state,
                      is_leaf=lambda x: not isinstance(x, tuple))


def times(factor: jax.Array, x: jax.Array) -> jax.Array:
  """Multiply in at least float32, and round once to the dtype of `x`."""
  wide = wide_dtype(x.dtype)
  return (factor.astype(wide) * x.astype(wide)).astype(x.dtype)
