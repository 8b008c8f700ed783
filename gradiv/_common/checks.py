"""What arguments must be, and how to say so: name, value, what is allowed."""

import numbers
from collections.abc import Callable, Collection
from typing import Any

import jax


def unless_array(check: Callable, name: str, value: Any, *args: Any) -> None:
  """Check a number; an array may be traced, and passes."""
  if not isinstance(value, jax.Array):
    check(name, value, *args)


def count(name: str, value: Any, least: int) -> None:
  """Raise ValueError unless it is a whole number, and large enough."""
  if not isinstance(value, numbers.Integral) or isinstance(
      value, bool) or value < least:
    raise ValueError(
      f'{name}={value!r}: must be a whole number of at least {least}')


def positive(name: str, value: Any) -> None:
  """Raise ValueError unless it is a positive number, and finite."""
  if not isinstance(value, numbers.Real) or not 0 < value < float('inf'):
    raise ValueError(f'{name}={value!r}: must be positive and finite')


def within(name: str, value: Any, low: float, high: float) -> None:
  """Raise ValueError unless it is a number from `low` to `high`."""
  if not isinstance(value, numbers.Real) or not low <= value <= high:
    raise ValueError(f'{name}={value!r}: must be from {low:g} to {high:g}')


def share(name: str, value: Any) -> None:
  """Raise ValueError unless it is a number from 0 to below 1."""
  if not isinstance(value, numbers.Real) or not 0 <= value < 1:
    raise ValueError(f'{name}={value!r}: must be from 0 to below 1')


def at_least(name: str, value: Any, least: float) -> None:
  """Raise ValueError unless it is a number that is large enough."""
  if not isinstance(value, numbers.Real) or not value >= least:
    raise ValueError(f'{name}={value!r}: must be at least {least:g}')


def choice(name: str, value: Any, allowed: Collection[str]) -> None:
  """Raise ValueError unless it is one of a few."""
  if value not in allowed:
    raise ValueError(f'{name}={value!r}: must be one of {tuple(allowed)}')
