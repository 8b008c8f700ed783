"""Checks that the flags of many papers pass; see `flags.check`."""

import math
from collections.abc import Callable, Sequence

from experiments.common import flags


def each(config: flags.Config, allowed: str, holds: Callable,
         *names: str) -> None:
  """Raise UsageError unless each of the flags holds."""
  for name in names:
    flags.check(getattr(config, name), name, allowed, holds)


def at_least(config: flags.Config, least: int, *names: str) -> None:
  """Raise UsageError where one of the flags is smaller."""
  each(config, f'at least {least}', lambda x: x >= least, *names)


def is_rising(values: Sequence[float], *, above: float = -math.inf,
              count: int = 1) -> bool:
  """Tell whether there are `count` values or more, each larger than the last.

  All of them, and the first, are larger than `above`.
  """
  return (len(values) >= count and list(values) == sorted({*values})
          and min(values, default=math.inf) > above)
