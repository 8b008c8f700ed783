"""Checks of arguments; each error names the argument, its value and the range.

A number that a user may schedule or inject (`optax.inject_hyperparams`) can
arrive as a traced array, whose value is unknown: such a value passes. Known
arrays are checked element by element; with `one`, as a transformation needs
it, they are refused.
"""

import numbers
from collections.abc import Collection
from typing import Any

import jax
import numpy as np
import optax


def count(name: str, value: Any, least: int) -> None:
  """Raise ValueError unless `value` is a Python integer of at least `least`.

  Counts decide shapes, so an array is refused: `optax.inject_hyperparams`
  must be told that they are static.
  """
  if not isinstance(value, numbers.Integral) or isinstance(
      value, bool) or value < least:
    hint = ('; name it in static_args of optax.inject_hyperparams'
            if isinstance(value, jax.Array) else '')
    raise ValueError(f'{name}={value!r}: must be a whole number of at least '
                     f'{least}{hint}')


def positive(name: str, value: Any, *, one: bool = False) -> None:
  """Raise ValueError unless the value is positive and finite."""
  _check(name, value, lambda x: (0 < x) & (x < np.inf),
         'must be positive and finite', one)


def within(
  name: str, value: Any, low: float, high: float, *, one: bool = False
) -> None:
  """Raise ValueError unless the value lies in [low, high]."""
  _check(name, value, lambda x: (low <= x) & (x <= high),
         f'must be from {low:g} to {high:g}', one)


def fraction(name: str, value: Any, *, one: bool = False) -> None:
  """Raise ValueError unless the value lies in [0, 1)."""
  _check(name, value, lambda x: (0 <= x) & (x < 1),
         'must be at least 0 and below 1', one)


def between(
  name: str, value: Any, low: float, high: float, *, one: bool = False
) -> None:
  """Raise ValueError unless the value lies in (low, high), ends excluded."""
  _check(name, value, lambda x: (low < x) & (x < high),
         f'must lie strictly between {low:g} and {high:g}', one)


def at_least(name: str, value: Any, least: float, *, one: bool = False) -> None:
  """Raise ValueError unless the value is at least `least`."""
  _check(name, value, lambda x: x >= least, f'must be at least {least:g}', one)


def not_negative(name: str, value: Any, *, one: bool = False) -> None:
  """Raise ValueError unless the value is finite and at least 0."""
  _check(name, value, lambda x: (0 <= x) & (x < np.inf),
         'must be finite and at least 0', one)


def choice(name: str, value: Any, allowed: Collection[str]) -> None:
  """Raise ValueError unless the value is one of a few strings."""
  if not isinstance(value, str) or value not in allowed:
    raise ValueError(f'{name}={value!r}: must be one of {tuple(allowed)}')


def key(name: str, value: Any) -> None:
  """Raise ValueError unless the value is one `jax.random` key."""
  dtype, shape = getattr(value, 'dtype', None), getattr(value, 'shape', None)
  typed = dtype is not None and jax.dtypes.issubdtype(
    dtype, jax.dtypes.prng_key) and shape == ()
  raw = dtype == np.uint32 and shape == _raw_shape()
  if not (typed or raw):
    raise ValueError(f'{name}={value!r}: must be one jax.random key')


def _raw_shape():
  """Return the shape of a key of the old style, as it is configured now."""
  return jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))).shape


def function(name: str, value: Any) -> None:
  """Raise ValueError unless the value is a function, or None."""
  if value is not None and not callable(value):
    raise ValueError(f'{name}={value!r}: must be a function, or None')


def transformation(
  name: str, value: Any
) -> optax.GradientTransformationExtraArgs:
  """Return a transformation that takes extra arguments.

  Raises:
    ValueError: If the value is none, as where a function that makes one was
      not called.
  """
  if not (callable(getattr(value, 'init', None))
          and callable(getattr(value, 'update', None))):
    raise ValueError(
      f'{name}={value!r}: must be an optax.GradientTransformation')
  return optax.with_extra_args_support(value)


def _check(name, value, fits, allowed, one):
  if isinstance(value, jax.core.Tracer):
    return
  # A sequence is no number, though NumPy would make an array of it.
  array = np.asarray(None if isinstance(value, (list, tuple)) else value)
  # Also of bfloat16, which NumPy does not count as a number.
  number = array.dtype != bool and jax.dtypes.issubdtype(
    array.dtype, np.number) and not jax.dtypes.issubdtype(
      array.dtype, np.complexfloating)
  if number and one and array.ndim:
    raise ValueError(f'{name} of shape {array.shape}: must be one number')
  if not number or not np.all(fits(array)):
    raise ValueError(f'{name}={value!r}: {allowed}')
