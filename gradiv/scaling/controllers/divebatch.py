"""DiveBatch: the batch size grows with the gradient diversity."""

import dataclasses
import math
from typing import Any

from gradiv._common import checks
from gradiv.diversity import (
  Moments,
  Reading,
  batch_size_bound,
  gradient_diversity,
)
from gradiv.scaling.controllers import controller


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiveBatch(controller.Controller):
  """Raise the batch size to δ n Δ, with Δ the gradient diversity of n examples.

  n Δ is the batch-size bound B_S = 1 + tr Σ/‖∇F‖². The batch never shrinks.
  Chen, Wang, Sundaram, `DiveBatch: Accelerating Model Training Through
  Gradient-Diversity Aware Batch Size Adaptation
  <https://arxiv.org/abs/2509.16173>`_, 2025. That the batch never shrinks, and
  that an unknown diversity leads to the largest one, was read in code that
  implements it.

  The published Δ = Σ‖g_i‖² / ‖Σ g_i‖² is summed over an epoch, while the
  parameters move. Its denominator is then the distance that the parameters went
  in the epoch, over the rate: where they oscillate, it is too small, and the
  batch jumps to the largest one. The default uses an estimate of B_S instead,
  and moves only where its interval allows.

  Attributes:
    delta: δ, the fraction of the bound to use.
    denominator: 'unbiased' takes a `gradiv.Reading`; 'published' takes
      the `gradiv.Moments` of an epoch's examples, and moves at each look.
  """

  delta: float = 0.1
  denominator: str = 'unbiased'

  def __post_init__(self) -> None:
    super().__post_init__()
    checks.positive('delta', self.delta)
    checks.choice('denominator', self.denominator, ('unbiased', 'published'))

  def update(
    self, state: Any, measured: Reading | Moments
  ) -> tuple[Any, int]:
    """Return the next state and batch size.

    >>> from gradiv.scaling.controllers import Ladder
    >>> control = DiveBatch(
    ...   ladder=Ladder(16, 256), delta=.1, denominator='published')
    >>> epoch = Moments(1000., 1., .001, .999)  # n Δ = 1 / .001
    >>> control.update(control.init(), epoch)[1]  # nearest to 100
    128
    """
    if self.denominator == 'published':
      size = self._published(measured)
      target = controller.Target(size, size, size)
    else:
      target = controller.target_of(
        measured, lambda e: self.delta * batch_size_bound(e))
    least = controller.Target(*(max(x, state.batch_size) for x in target))
    return self.moved(state, least)

  def _published(self, moments):
    if not isinstance(moments, Moments):
      raise ValueError(f'measured={moments!r}: must be the gradiv.Moments of '
                       'an epoch with the published denominator')
    size = self.delta * float(
      moments.num_gradients * gradient_diversity(moments))
    return size if math.isfinite(size) else math.inf
