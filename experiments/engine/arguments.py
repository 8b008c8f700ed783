"""Checks of what callers pass, before anything is trained."""

import math
import numbers
from typing import Any


def whole(name: str, value: Any, least: int, below: int | None = None) -> None:
  """Raise ValueError unless the value is a whole number in a range.

  >>> whole('steps', 3, 1)
  """
  fits = isinstance(value, numbers.Integral) and not isinstance(value, bool)
  if not fits or value < least or (below is not None and value >= below):
    end = '' if below is None else f' and below {below}'
    raise ValueError(
      f'{name}={value!r}: must be a whole number of at least {least}{end}')


def seconds(name: str, value: Any) -> None:
  """Raise ValueError unless the value is a finite number of at least 0."""
  if not isinstance(value, numbers.Real) or not 0 <= value < math.inf:
    raise ValueError(f'{name}={value!r}: must be finite and at least 0')


def functions(**values: Any) -> None:
  """Raise ValueError where a value is neither None nor a function."""
  for name, value in values.items():
    if value is not None and not callable(value):
      raise ValueError(f'{name}={value!r}: must be a function')


def floating(name: str, dtype: Any) -> None:
  """Raise ValueError unless it is None or a floating dtype."""
  import jax.numpy as jnp  # nothing else here needs JAX
  try:
    fits = dtype is None or jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
  except TypeError:
    fits = False
  if not fits:
    raise ValueError(f'{name}={dtype!r}: must be a floating dtype')
