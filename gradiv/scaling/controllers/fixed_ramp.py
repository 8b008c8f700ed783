"""Batch sizes that were decided before the run."""

import bisect
import dataclasses
from typing import Any

from gradiv.scaling.controllers import controller


@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedRamp(controller.Controller):
  """Use the k-th batch size of the ladder from ``starts[k]`` examples on.

  >>> from gradiv.scaling.controllers import Ladder
  >>> ramp = FixedRamp(ladder=Ladder(16, 64), starts=(0, 1000, 4000))
  >>> ramp.update(ramp.init(), 1000)[1]
  32
  >>> ramp.stages  # for `gradiv.scaling.ramp`
  ((0, 16), (1000, 32), (4000, 64))

  Attributes:
    starts: For each size of the ladder, the number of examples seen from which
      on it is used; the first is 0, and none is smaller than the one before.

  Raises:
    ValueError: If there is not one start for each size, or they fall.
  """

  starts: tuple[int, ...]

  def __post_init__(self) -> None:
    super().__post_init__()
    if len(self.starts) != len(self.ladder.sizes) or self.starts[0] != 0 or (
        list(self.starts) != sorted(self.starts)):
      raise ValueError(
        f'starts={self.starts!r}: must be one for each of the sizes '
        f'{self.ladder.sizes}, begin with 0 and not fall')
    if self.first != self.ladder.least:
      raise ValueError(f'start={self.start!r}: must be the smallest size')

  @property
  def stages(self) -> tuple[tuple[int, int], ...]:
    """Pairs of the examples seen and the batch size from there on."""
    return tuple(zip(self.starts, self.ladder.sizes))

  def update(self, state: Any, num_examples: int) -> tuple[Any, int]:
    """Return the next state and batch size, after a number of examples."""
    size = float(self.ladder.sizes[
      bisect.bisect_right(self.starts, num_examples) - 1])
    return self.moved(state, controller.Target(size, size, size))
