"""What all controllers of the batch size share.

A controller is a frozen dataclass of its options, and runs on the host between
steps: ``init()`` returns its state, and ``update(state, measured)`` the next
state and the batch size to use from now on. The state is a named tuple of
numbers, so that a checkpoint can carry it, and the next one is a function of
the last one and of what was measured: a resumed run takes the decisions of one
that was never interrupted.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from gradiv._common import checks
from gradiv.diversity import Estimate, Reading, _equality
from gradiv.scaling.controllers.ladder import Ladder

# The learning rate is multiplied by the growth of the batch to this power.
RATE_RULES = {'linear': 1., 'sqrt': 0.5, 'none': 0., 'seesaw': -0.5}


class ControllerState(NamedTuple):
  """State of most controllers.

  Attributes:
    batch_size: The batch size to use for the next step.
    num_updates: Number of looks.
    num_changes: Number of times that the batch size was changed.
  """

  batch_size: int
  num_updates: int = 0
  num_changes: int = 0


class Target(NamedTuple):
  """The batch size that a formula asks for, and its interval; may be ∞ or NaN.

  Attributes:
    low: Lower end of the interval.
    value: Value of the formula.
    high: Upper end of the interval.
  """

  low: float
  value: float
  high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Controller:
  """Options of every controller.

  Attributes:
    ladder: The batch sizes to choose from.
    start: The first batch size; by default the smallest of the ladder.
    rate_rule: What the learning rate does as the batch grows by a factor of k:
      'linear' multiplies it by k, 'sqrt' by √k, 'none' keeps it, and 'seesaw'
      divides it by √k, in place of a schedule that would divide it by k.
  """

  ladder: Ladder
  start: int | None = None
  rate_rule: str = 'none'

  def __post_init__(self) -> None:
    if not isinstance(self.ladder, Ladder):
      raise ValueError(f'ladder={self.ladder!r}: must be a Ladder')
    self.ladder.check(self.first)
    checks.choice('rate_rule', self.rate_rule, RATE_RULES)

  @property
  def first(self) -> int:
    """The first batch size."""
    return self.ladder.least if self.start is None else self.start

  def init(self) -> Any:
    """Return the state before the first look."""
    return ControllerState(self.first)

  def rate_factor(self, state: Any) -> float:
    """Return the factor for the learning rate that was set for the first size.

    >>> controller = Controller(ladder=Ladder(16, 64), rate_rule='sqrt')
    >>> controller.rate_factor(ControllerState(batch_size=64))
    2.0
    """
    growth = state.batch_size / self.first
    return growth ** RATE_RULES[self.rate_rule]

  def moved(
    self, state: Any, target: Target, *, up: bool = False
  ) -> tuple[Any, int]:
    """Move to the target, unless its interval includes the present size.

    All comparisons are between batch sizes of the ladder. Where the interval is
    unbounded, the move goes to its lower end only.

    Args:
      state: The present state.
      target: What the formula asks for; without effect if it is not known.
      up: Whether to round the target up, as a test asks that must pass, rather
        than to the nearest size.

    Returns:
      The next state, and its batch size.

    Raises:
      ValueError: If the present size is not on the ladder.
    """
    self.ladder.check(state.batch_size)
    size, rung = state.batch_size, (
      self.ladder.at_least if up else self.ladder.nearest)
    if not any(map(math.isnan, target)):
      low, high = rung(target.low), rung(target.high)
      if not low <= size <= high:
        goal = target.low if math.isinf(target.high) else target.value
        size = min(max(rung(goal), low), high)
    return state._replace(
      batch_size=size,
      num_updates=state.num_updates + 1,
      num_changes=state.num_changes + (size != state.batch_size)), size


def target_of(
  reading: Any, formula: Callable[[Estimate], Any]
) -> Target:
  """Apply a formula to a reading and to both ends of its interval.

  The ends are in units of the second moment G + S, whose own error is small
  against that of G; they are scaled by its estimate. Where all gradients were
  equal up to rounding, nothing is known, and a warning says so.

  Args:
    reading: What `gradiv.read_moments` returns. With groups, the whole counts.
    formula: Function from an `Estimate` to a batch size that falls with G/S.
  """
  if not isinstance(reading, Reading):
    raise ValueError(f'reading={reading!r}: must be a gradiv.Reading; track '
                     'moments of single steps with gradiv.track_moments first')
  if reading.whole is not None:
    reading = reading.whole
  now = reading.estimate
  if jnp.ndim(now.sq_norm):
    raise ValueError(
      f'reading of shape {jnp.shape(now.sq_norm)}: must be of one run')
  if _equality.is_of_equal_gradients(reading, 1):
    warnings.warn(f'the batch size stays: {_equality.EQUAL}', stacklevel=3)
    return Target(math.nan, math.nan, math.nan)
  second_moment = now.sq_norm + now.variance
  # 1/B_S at the ends; of two lower bounds on B_S, the better one.
  most = min(float(reading.interval.lower.sq_norm),
             1 / float(reading.batch_size_at_least))
  least = float(reading.interval.upper.sq_norm)
  low, high = (float(formula(Estimate(
    p * second_moment, (1 - p) * second_moment))) for p in (most, least))
  value = float(formula(now))
  return Target(low, value, high)
