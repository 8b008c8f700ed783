"""Seesaw: double the batch where a schedule would halve the learning rate."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from gradiv.scaling.controllers import controller


class SeesawState(NamedTuple):
  """State of `Seesaw`.

  Attributes:
    batch_size: The batch size to use for the next step.
    num_updates: Number of looks.
    num_changes: Number of times that the batch size was changed.
    peak: The largest rate of the schedule so far.
    num_halvings: How often the schedule has halved its rate since.
  """

  batch_size: int
  num_updates: int = 0
  num_changes: int = 0
  peak: float = 0.
  num_halvings: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seesaw(controller.Controller):
  """Double the batch, and cut the rate by √2, where a schedule would halve it.

  The schedule is one by examples. While its rate rises, it is used as it is.
  Then, as often as it has halved its largest rate, the batch doubles, and the
  rate that is used falls by √2: as many examples, in fewer steps. At the end of
  the ladder, the rate is halved instead. For Adam, at or below the critical
  batch size.

  Meterez et al., `Seesaw: Accelerating Training by Balancing Learning Rate and
  Batch Size Scheduling <https://arxiv.org/abs/2510.14717>`_, 2025. For SGD,
  they keep the rate as the batch doubles.

  >>> from gradiv.scaling.controllers import Ladder
  >>> seesaw = Seesaw(ladder=Ladder(16, 32), schedule=lambda n: 0.1 * 2**(-n/9))
  >>> state = seesaw.init()
  >>> for n in (0, 8, 9, 18):
  ...   state, size = seesaw.update(state, n)
  ...   print(size, round(seesaw.rate(state), 4))
  16 0.1
  16 0.1
  32 0.0707
  32 0.0354

  Attributes:
    schedule: Function from the number of examples seen to the learning rate,
      such as a cosine decay.
  """

  schedule: Callable[[float], float]
  rate_rule: str = 'seesaw'

  def __post_init__(self) -> None:
    super().__post_init__()
    if not callable(self.schedule):
      raise ValueError(
        f'schedule={self.schedule!r}: must be a function of the examples seen')
    if self.rate_rule not in ('seesaw', 'none'):
      raise ValueError(f"rate_rule={self.rate_rule!r}: must be 'seesaw', or "
                       "'none' for SGD")

  def init(self) -> SeesawState:
    """Return the state before the first look."""
    return SeesawState(self.first)

  def update(
    self, state: SeesawState, num_examples: float
  ) -> tuple[SeesawState, int]:
    """Return the next state and batch size, after a number of examples."""
    planned = float(self.schedule(num_examples))
    peak, halvings = state.peak, state.num_halvings
    if planned >= peak:
      peak = planned
    else:
      # Rounding must not delay a halving.
      ratio = peak / planned if planned > 0 else math.inf
      bound = 64 if math.isinf(ratio) else math.floor(math.log2(ratio) + 1e-6)
      halvings = max(halvings, bound)
    size = self.first * 2.**halvings
    state = state._replace(peak=peak, num_halvings=halvings)
    return self.moved(state, controller.Target(size, size, size))

  def rate(self, state: Any) -> float:
    """Return the learning rate to use with the state's batch size."""
    return state.peak * self.rate_factor(state)

  def rate_factor(self, state: Any) -> float:
    """Return the factor for the largest rate."""
    doublings = round(math.log2(state.batch_size / self.first))
    beyond = state.num_halvings - doublings
    return super().rate_factor(state) * 0.5 ** max(beyond, 0)
