"""Checks that a loss and its parameters are what the engine can handle."""

from typing import Any

import jax
import jax.numpy as jnp

from gradiv._common import compat

_COLLECTIVES = frozenset({
  'psum', 'psum2', 'psum_invariant', 'psum_invariant2', 'pmax', 'pmin',
  'all_gather', 'all_gather_invariant', 'all_to_all', 'ppermute',
  'reduce_scatter', 'pgather', 'ragged_all_to_all'})
# Their bodies may use the axes that they bind: a layer on several devices.
_BINDS_AXES = frozenset({'shard_map', 'xla_pmap'})


def pair(result: Any) -> tuple[Any, Any]:
  """Return the result of a loss with auxiliary output, if it is a pair."""
  if not (isinstance(result, tuple) and len(result) == 2):
    raise ValueError(
      'has_aux=True: loss_fn must return a pair (loss, auxiliary output), got '
      f'{type(result)}')
  return result


def scalar(loss: Any, has_aux: bool) -> None:
  """Raise ValueError unless the loss is one real number."""
  try:
    found = jax.typeof(loss)
    fits = found.shape == () and jnp.issubdtype(found.dtype, jnp.floating)
  except TypeError:
    found, fits = type(loss), False
  if not fits:
    is_pair = isinstance(loss, tuple) and not has_aux
    raise ValueError(
      f'loss_fn returned {found}: must be one floating number, of shape (), '
      'for one example' + is_pair * '; or a pair, with has_aux=True')


def is_wide(jaxpr: Any) -> bool:
  """Return whether no number of a program is narrower than float32."""
  for equation in jaxpr.eqns:
    if any(jnp.issubdtype(x.aval.dtype, jnp.floating)
           and x.aval.dtype.itemsize < 4
           for x in equation.invars + equation.outvars
           if hasattr(x.aval, 'dtype')):
      return False
    for inner in jax.tree.leaves(list(equation.params.values())):
      inner = getattr(inner, 'jaxpr', inner)
      if hasattr(inner, 'eqns') and not is_wide(inner):
        return False
  return True


def separate(
  jaxpr: Any, params: list[Any], batch: list[Any]
) -> frozenset[str]:
  """Raise ValueError if a loss communicates with other examples or workers.

  Devices that hold the same examples may communicate: those along an axis over
  which, as types tell, the batch does not vary.

  Args:
    jaxpr: The loss of one example, and its gradient.
    params: The parameters.
    batch: The leaves of the batch.

  Returns:
    The axes along which they do.
  """
  found: frozenset[str] = frozenset()
  for equation in jaxpr.eqns:
    name, options = equation.primitive.name, equation.params
    if name in _COLLECTIVES:
      axes = options.get('axes', options.get('axis_name'))
      names = axes if isinstance(axes, tuple) else (axes,)
      if all(_is_shared(axis, batch) for axis in names):
        found |= {*names}
        continue
      _private(params, names)
      raise ValueError(
        f'loss_fn mixes examples by a collective, {name} over {axes}: it must '
        'be a function of one example alone, without batch statistics')
    if name in _BINDS_AXES:
      continue
    for inner in jax.tree.leaves(list(options.values())):
      inner = getattr(inner, 'jaxpr', inner)
      if hasattr(inner, 'eqns'):
        found |= separate(inner, params, batch)
  return found


def _is_shared(axis, batch):
  """Return whether the workers along an axis have the same examples."""
  return isinstance(axis, str) and compat.is_tracked(axis) and not any(
    axis in compat.varying_axes(x) for x in batch if isinstance(x, jax.Array))


def _private(params, axes):
  """Raise ValueError if jax itself adds up the gradient over workers.

  Inside ``shard_map(check_vma=True)`` it does so for a parameter that is
  common to the workers; such a collective is none of the loss.
  """
  for axis in axes:
    if isinstance(axis, str) and compat.is_tracked(axis) and any(
        isinstance(x, jax.Array) and axis not in compat.varying_axes(x)
        for x in params):
      raise ValueError(
        f'params are common to the workers along {axis!r}, so that jax adds '
        f'their gradient up over all of them: pass axis_name={axis!r}, or '
        f'gradiv.as_private(params, {axis!r}) as the parameters')
