"""Checks of the arguments that the per-example statistics share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradiv import workers
from gradiv._common import checks


def check_options(
  *,
  groups: Any = None,
  axis_name: workers.AxisName | None = None,
  microbatch_size: int | None = None,
) -> None:
  """Raise ValueError on an option that cannot be used."""
  if groups is not None and not callable(groups):
    raise ValueError(f'groups={groups!r}: must be a function of a path')
  if axis_name is not None:
    workers.names_of(axis_name)
  if microbatch_size is not None:
    checks.count('microbatch_size', microbatch_size, 1)


def with_args(loss_fn: Callable, args: tuple) -> Callable:
  """Return (params, example) -> loss_fn(params, example, *args)."""
  if not args:
    return loss_fn
  return lambda params, example: loss_fn(params, example, *args)


def as_size(microbatch_size: int | None, num_examples: int) -> int:
  """Return the microbatch size; raise ValueError if it does not divide n."""
  size = microbatch_size or num_examples
  if num_examples % size:
    raise ValueError(f'microbatch_size={size}: must divide the number of '
                     f'examples, {num_examples}')
  return size


def as_mask(mask: Any, num_examples: int) -> jax.Array | None:
  """Return a mask as an array; raise ValueError unless it is [n] of bool."""
  if mask is None:
    return None
  mask = _as_array(mask)
  shape, dtype = jnp.shape(mask), jnp.result_type(mask)
  if shape != (num_examples,):
    raise ValueError(f'mask has shape {shape}: must be ({num_examples},), one '
                     'entry per example')
  if dtype != jnp.bool_:
    raise ValueError(f'mask has dtype {dtype}: must be bool, True for the '
                     'examples that count')
  return jnp.asarray(mask)


def as_weights(weights: Any, shape: tuple[int, ...]) -> jax.Array:
  """Return weights as an array; raise ValueError unless they fit and are real.

  Args:
    weights: Argument of `combine`.
    shape: [n], or [groups, n].
  """
  if isinstance(weights, dict):
    raise ValueError(f'weights={weights}: must be one array of shape {shape}')
  weights = _as_array(weights)
  found, dtype = jnp.shape(weights), jnp.result_type(weights)
  if found != shape or jnp.issubdtype(dtype, jnp.complexfloating):
    what = 'one per example' if len(shape) == 1 else '[groups, examples]'
    raise ValueError(f'weights have shape {found} and dtype {dtype}: must be '
                     f'real numbers of shape {shape}, {what}')
  return jnp.asarray(weights)


def _as_array(x):
  return np.asarray(x) if isinstance(x, (list, tuple)) else x
