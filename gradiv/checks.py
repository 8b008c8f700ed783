"""What arguments must be, and how to say so: name, value, what is allowed."""

import numbers
from collections.abc import Collection
from typing import Any


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


def choice(name: str, value: Any, allowed: Collection[str]) -> None:
  """Raise ValueError unless it is one of a few."""
  if value not in allowed:
    raise ValueError(f'{name}={value!r}: must be one of {tuple(allowed)}')
