"""The batch size that passes the norm test."""

import dataclasses
from typing import Any

from gradiv._common import checks
from gradiv.diversity import Reading, norm_test_batch_size
from gradiv.scaling.controllers import controller


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormTest(controller.Controller):
  """Keep E‖g_B − ∇F‖² ≤ θ²‖∇F‖² by B ≥ tr Σ / (θ²‖∇F‖²), rounded up.

  Byrd et al., `Sample Size Selection in Optimization Methods for Machine
  Learning <https://doi.org/10.1007/s10107-012-0572-5>`_, 2012. Published rules
  put ‖g_B‖² for ‖∇F‖², which is too large by tr Σ/B, so that the batch never
  has to be larger than B/θ²; here the estimate without that bias decides.

  Attributes:
    theta: Tolerated relative error θ of the gradient.
  """

  theta: float = 1.

  def __post_init__(self) -> None:
    super().__post_init__()
    checks.positive('theta', self.theta)

  def update(self, state: Any, reading: Reading) -> tuple[Any, int]:
    """Return the next state and batch size, from `gradiv.read_moments`."""
    return self.moved(state, controller.target_of(
      reading, lambda e: norm_test_batch_size(e, self.theta)), up=True)
