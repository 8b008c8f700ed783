"""The batch size that is coupled to the learning rate and the loss: CABS."""

import dataclasses
import math
from typing import Any

from gradiv._common import checks
from gradiv.diversity import Reading
from gradiv.scaling.controllers import controller


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cabs(controller.Controller):
  """Keep the batch size at B = γ tr Σ / (F − lowest), for plain SGD.

  Balles, Romero, Hennig, `Coupling Adaptive Batch Sizes with Learning Rates
  <https://arxiv.org/abs/1612.05086>`_, 2017. It is derived for SGD without
  momentum and for a loss whose smallest value is known, and needs no estimate
  of ‖∇F‖².

  Attributes:
    lowest: The smallest possible loss.
  """

  lowest: float = 0.

  def update(
    self, state: Any, reading: Reading, *, loss: float, learning_rate: float
  ) -> tuple[Any, int]:
    """Return the next state and batch size.

    Args:
      state: The present state.
      reading: What `gradiv.read_moments` returns.
      loss: F, averaged over some steps.
      learning_rate: γ, as it is used with the mean gradient of a batch.

    Raises:
      ValueError: If the loss is below the lowest, or the rate is negative.
    """
    checks.at_least('loss - lowest', float(loss) - self.lowest, 0)
    checks.at_least('learning_rate', learning_rate, 0)
    gap = float(loss) - self.lowest
    scale = learning_rate / gap if gap else math.inf
    return self.moved(state, controller.target_of(
      reading, lambda e: scale * max(float(e.variance), 0.)))
