"""Controllers of the batch size: what was measured to the next batch size.

  control = NoiseScale(ladder=Ladder(16, 1024), rate_rule='sqrt')
  state = control.init()
  ...
  state, batch_size = control.update(state, gradiv.read_moments(opt_state))
  learning_rate = first_rate * control.rate_factor(state)

Each is a frozen dataclass that runs on the host between steps. It moves along
the powers of two of its `Ladder`, only when the confidence interval of what its
formula asks for excludes the present size, and never beyond the ladder. The
state is a named tuple of numbers: save it with the checkpoint.

  NoiseScale        B = multiple · tr Σ/‖∇F‖²             a Reading
  NormTest          B = tr Σ/(θ²‖∇F‖²)                    a Reading
  InnerProductTest  B = μᵀΣμ/(θ²‖μ‖⁴), and orthogonality  a Gram matrix
  DiveBatch         B = δ n Δ                             a Reading or Moments
  Cabs              B = γ tr Σ/F                          a Reading, loss, rate
  LossDriven        B = B₀ F(x₀)/F(x)                     the loss
  FixedRamp         as planned                            examples seen
  Seesaw            doubles where a schedule would halve  examples seen
                    the rate, which falls by √2
"""

from gradiv.scaling.controllers.cabs import Cabs as Cabs
from gradiv.scaling.controllers.controller import (
  RATE_RULES as RATE_RULES,
  Controller as Controller,
  ControllerState as ControllerState,
)
from gradiv.scaling.controllers.divebatch import DiveBatch as DiveBatch
from gradiv.scaling.controllers.fixed_ramp import FixedRamp as FixedRamp
from gradiv.scaling.controllers.inner_products import (
  InnerProductTest as InnerProductTest,
  InnerProductTestState as InnerProductTestState,
)
from gradiv.scaling.controllers.ladder import Ladder as Ladder
from gradiv.scaling.controllers.loss_driven import (
  LossDriven as LossDriven,
  LossDrivenState as LossDrivenState,
)
from gradiv.scaling.controllers.noise_scale import NoiseScale as NoiseScale
from gradiv.scaling.controllers.norm_of_error import NormTest as NormTest
from gradiv.scaling.controllers.seesaw import (
  Seesaw as Seesaw,
  SeesawState as SeesawState,
)
