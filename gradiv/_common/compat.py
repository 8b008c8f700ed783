"""The differences between jax 0.7.2 and 0.12, and nothing else.

Under ``jax.shard_map(..., check_vma=True)`` every value carries the set of
axes over which it may vary. How that set is read and changed has been renamed
several times; nowhere else does gradiv care which jax it runs on.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core as extend_core


def varying_axes(x: Any) -> frozenset[str]:
  """Return the mapped axes over which the type of `x` varies."""
  aval = x if isinstance(x, jax.core.AbstractValue) else jax.typeof(x)
  tracked = getattr(aval, 'mat', None)  # since jax 0.10
  if tracked is not None:
    return frozenset(tracked.varying)
  assert hasattr(aval, 'vma')
  return frozenset(aval.vma)


def is_tracked(axis: str) -> bool:
  """Return whether jax tracks in types which values vary over `axis`.

  True only under ``shard_map(check_vma=True)``: with vmap, pmap or
  ``check_vma=False``, not even the index of a worker has a varying type.
  """
  return axis in varying_axes(lax.axis_index(axis))


def mapped_axes() -> tuple[str, ...]:
  """Return the axes that a collective may name where this is called."""
  ask = 'unsafe_get_axis_names_DO_NOT_USE'
  # In jax 0.7 it is in `jax.core`.
  where = extend_core if hasattr(extend_core, ask) else jax.core
  return tuple(name for name in getattr(where, ask)() if isinstance(name, str))


def is_over_devices(names: tuple[str, ...]) -> bool:
  """Return whether one of the axes lies along the devices of a mesh.

  Under `jax.vmap` alone, workers share a device and a collective sends
  nothing.
  """
  return bool({*names} & {*jax.sharding.get_abstract_mesh().manual_axes})


def concrete_mesh() -> jax.sharding.Mesh | None:
  """Return the mesh of `jax.set_mesh`; None inside of jit, where it is hidden.
  """
  try:
    return jax.sharding.get_mesh()
  except (AttributeError, ValueError):  # AttributeError: an older jax
    return None


def to_varying(x: jax.Array, axis: str) -> jax.Array:
  """Mark `x` as varying over `axis`; its values do not change."""
  if hasattr(lax, 'pcast'):  # since jax 0.8
    return lax.pcast(x, axis, to='varying')
  assert hasattr(lax, 'pvary')
  return lax.pvary(x, axis)


def zeros_of(
  shape: tuple[int, ...], dtype: Any, varying: frozenset[str]
) -> jax.Array:
  """Create zeros whose type varies over the given axes.

  A loop's carry must start with the type that it ends with, and all branches
  of a cond must return the same type.
  """
  zeros = jnp.zeros(shape, dtype)
  for axis in sorted(varying):
    zeros = to_varying(zeros, axis)
  return zeros


def zeros_like(x: Any) -> jax.Array:
  """Create zeros with the type of `x`, an array or a ShapeDtypeStruct."""
  return zeros_of(x.shape, x.dtype, varying_axes(x))


def all_gather_common(x: jax.Array, axis: str) -> jax.Array:
  """Concatenate `x` of all workers along its first axis.

  The result is marked as common to the workers where jax tracks that, so that
  it may leave ``shard_map(check_vma=True)`` through ``out_specs=P()``.
  """
  if not is_tracked(axis):
    return lax.all_gather(x, axis, tiled=True)
  if hasattr(lax, 'all_gather_invariant'):  # jax 0.7
    return lax.all_gather_invariant(x, axis, tiled=True)
  try:
    return lax.all_gather(x, axis, tiled=True, to='invarying')
  except ValueError:  # before jax 0.10 there is no 'invarying'
    size = x.shape[0] * lax.axis_size(axis)
    place = lax.axis_index(axis) * x.shape[0]
    empty = to_varying(jnp.zeros((size, *x.shape[1:]), x.dtype), axis)
    whole = lax.dynamic_update_slice_in_dim(empty, x, place, 0)
    return lax.psum(whole, axis)


def bind(eqn: Any, *values: Any) -> Any:
  """Evaluate one equation of a jaxpr."""
  bound = eqn.primitive.get_bind_params(eqn.params)
  # Since jax 0.12 functions are passed as parameters, not before the values.
  functions, params = bound if isinstance(bound, tuple) else ((), bound)
  return eqn.primitive.bind(*functions, *values, **params)


def scan_sizes(params: dict[str, Any]) -> tuple[int, int]:
  """Return the numbers of constants and of carries of a scan equation."""
  if 'num_carry' in params:
    return params['num_consts'], params['num_carry']
  consts, carry, _ = params['ft_in'].unpack()  # since jax 0.12
  return len(consts), len(carry)
