"""The batch size that grows as the loss falls: AdaDamp."""

import dataclasses
import math
from typing import NamedTuple

from gradiv._common import checks
from gradiv.scaling.controllers import controller


class LossDrivenState(NamedTuple):
  """State of `LossDriven`.

  Attributes:
    batch_size: The batch size to use for the next step.
    num_updates: Number of looks.
    num_changes: Number of times that the batch size was changed.
    first_loss: F(x₀), the loss at the first look; NaN before.
  """

  batch_size: int
  num_updates: int = 0
  num_changes: int = 0
  first_loss: float = math.nan


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossDriven(controller.Controller):
  """Keep the batch at B = B₀ (F(x₀) − lowest) / (F(x) − lowest), rounded up.

  It needs no gradient statistics. Sievert and Shah, `Improving the Convergence
  of SGD Through Adaptive Batch Sizes <https://arxiv.org/abs/1910.08222>`_,
  2019.

  >>> from gradiv.scaling.controllers import Ladder
  >>> control = LossDriven(ladder=Ladder(8, 256))
  >>> state, _ = control.update(control.init(), 2.0)
  >>> control.update(state, 0.5)[1]  # a quarter of the loss
  32

  Attributes:
    lowest: The smallest possible loss.
    num_errors: Half of the interval's width, in standard errors.
  """

  lowest: float = 0.
  num_errors: float = 2.

  def __post_init__(self) -> None:
    super().__post_init__()
    checks.at_least('num_errors', self.num_errors, 0)

  def init(self) -> LossDrivenState:
    """Return the state before the first look."""
    return LossDrivenState(self.first)

  def update(
    self, state: LossDrivenState, loss: float, *, error: float = 0.
  ) -> tuple[LossDrivenState, int]:
    """Return the next state and batch size.

    Args:
      state: The present state.
      loss: F(x), averaged over some steps or over an evaluation.
      error: Standard error of that average.
    """
    loss, error = float(loss), float(error)
    checks.at_least('error', error, 0)
    if math.isnan(state.first_loss):
      state = state._replace(first_loss=loss)
    numerator = self.first * (state.first_loss - self.lowest)

    def size(at):
      gap = at - self.lowest
      return numerator / gap if gap > 0 else math.inf

    if math.isnan(loss):
      target = controller.Target(loss, loss, loss)
    else:
      half = self.num_errors * error
      target = controller.Target(
        size(loss + half), size(loss), size(loss - half))
    return self.moved(state, target, up=True)
