"""The batch size that is a multiple of the gradient noise scale."""

import dataclasses
from typing import Any

from gradiv._common import checks
from gradiv.diversity import Reading, noise_scale
from gradiv.scaling.controllers import controller


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseScale(controller.Controller):
  """Keep the batch size at B = multiple · tr Σ / ‖∇F‖².

  At the noise scale itself, both steps and examples are twice the fewest
  possible. McCandlish et al., `An Empirical Model of Large-Batch Training
  <https://arxiv.org/abs/1812.06162>`_, 2018. There, G and S are averages over
  steps as well, but nothing says when they are known.

  >>> import gradiv, jax
  >>> from gradiv.scaling.controllers import Ladder
  >>> tx = gradiv.track_moments(decay=0.9)
  >>> tracked = tx.init(())
  >>> track = jax.jit(lambda moments, s: tx.update((), s, moments=moments)[1])
  >>> for deviation in (13.9, 14.1, 14., 14.2, 13.8, 14., 14.1, 13.9) * 4:
  ...   moments = gradiv.Moments(8., 1., 3., deviation)  # G = 1, S = 16
  ...   tracked = track(moments, tracked)
  >>> control = NoiseScale(ladder=Ladder(2, 64))
  >>> _, size = control.update(control.init(), gradiv.read_moments(tracked))
  >>> size
  16

  Attributes:
    multiple: The multiple of the noise scale.
  """

  multiple: float = 1.

  def __post_init__(self) -> None:
    super().__post_init__()
    checks.positive('multiple', self.multiple)

  def update(self, state: Any, reading: Reading) -> tuple[Any, int]:
    """Return the next state and batch size, from `gradiv.read_moments`."""
    return self.moved(state, controller.target_of(
      reading, lambda estimate: self.multiple * noise_scale(estimate)))
