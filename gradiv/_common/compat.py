"""What differs between jax 0.7.2 and 0.12, and nothing else.

Under ``jax.shard_map(..., check_vma=True)`` every value carries the set of
axes over which it may vary. How that set is read and changed has been renamed
several times; nowhere else does gradiv care which jax it runs on.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def varying_axes(x: Any) -> frozenset[str]:
  """Read the mapped axes over which the type of `x` varies."""
  aval = x if isinstance(x, jax.core.AbstractValue) else jax.typeof(x)
  tracked = getattr(aval, 'mat', None)  # since jax 0.10
  return frozenset(tracked.varying if tracked is not None else aval.vma)


def is_tracked(axis: str) -> bool:
  """Tell whether types tell what varies over `axis`.

  True under ``shard_map(check_vma=True)`` alone: neither vmap, nor pmap, nor
  ``check_vma=False`` gives the index of a worker a varying type.
  """
  return axis in varying_axes(lax.axis_index(axis))


def to_varying(x: jax.Array, axis: str) -> jax.Array:
  """Type `x` as varying over `axis`; the values stay."""
  if hasattr(lax, 'pcast'):  # since jax 0.8
    return lax.pcast(x, axis, to='varying')
  return lax.pvary(x, axis)


def zeros_of(
  shape: tuple[int, ...], dtype: Any, varying: frozenset[str]
) -> jax.Array:
  """Make zeros that are typed as varying over some axes.

  The carry of a loop must begin with the type that it ends with, and what the
  branches of a cond return must be of one type.
  """
  zeros = jnp.zeros(shape, dtype)
  for axis in sorted(varying):
    zeros = to_varying(zeros, axis)
  return zeros


def zeros_like(x: Any) -> jax.Array:
  """Make zeros typed as `x`, an array or what `jax.eval_shape` gives."""
  return zeros_of(x.shape, x.dtype, varying_axes(x))


def all_gather_common(x: jax.Array, axis: str) -> jax.Array:
  """Concatenate the workers' `x` along its first axis, the same on each.

  Typed as common to the workers where jax tracks that, so that it may leave
  ``shard_map(check_vma=True)`` through ``out_specs=P()``.
  """
  if not is_tracked(axis):
    return lax.all_gather(x, axis, tiled=True)
  if hasattr(lax, 'all_gather_invariant'):  # jax 0.7
    return lax.all_gather_invariant(x, axis, tiled=True)
  try:
    return lax.all_gather(x, axis, tiled=True, to='invarying')
  except ValueError:  # before jax 0.10: 'invarying' is not to be had
    size = x.shape[0] * lax.axis_size(axis)
    place = lax.axis_index(axis) * x.shape[0]
    empty = to_varying(jnp.zeros((size, *x.shape[1:]), x.dtype), axis)
    whole = lax.dynamic_update_slice_in_dim(empty, x, place, 0)
    return lax.psum(whole, axis)


def bind(eqn: Any, *values: Any) -> Any:
  """Apply one equation of a jaxpr to values."""
  bound = eqn.primitive.get_bind_params(eqn.params)
  # Since jax 0.12 functions are passed as parameters, not before the values.
  functions, params = bound if isinstance(bound, tuple) else ((), bound)
  return eqn.primitive.bind(*functions, *values, **params)


def scan_sizes(params: dict[str, Any]) -> tuple[int, int]:
  """Count the constants and the carries of a scan equation."""
  if 'num_carry' in params:
    return params['num_consts'], params['num_carry']
  consts, carry, _ = params['ft_in'].unpack()  # since jax 0.12
  return len(consts), len(carry)
