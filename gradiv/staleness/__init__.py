"""Stale gradients: delayed, simulated, damped, corrected.

  delay_updates        stale by a number, a profile, a draw or a record, inside
                       of a program
  history              past parameters, to take the gradient at
  simulate, replay     stale as workers of different speed are
  scale_by_staleness   shorter steps along what is stale
  compensate_delay     what the gradient would be by now
"""

from gradiv.staleness import history as history
from gradiv.staleness.correctors import (
  CompensateDelayState as CompensateDelayState,
  compensate_delay as compensate_delay,
  predict_params as predict_params,
)
from gradiv.staleness.delay import (
  DelayUpdatesState as DelayUpdatesState,
  delay_updates as delay_updates,
)
from gradiv.staleness.models import (
  Drawn as Drawn,
  Recorded as Recorded,
  Staleness as Staleness,
  pipeline_staleness as pipeline_staleness,
)
from gradiv.staleness.simulation.events import (
  LAWS as LAWS,
  Trace as Trace,
  simulate as simulate,
)
from gradiv.staleness.simulation.replaying import (
  Replay as Replay,
  replay as replay,
)
from gradiv.staleness.simulation.servers import RULES as RULES
from gradiv.staleness.step_sizes import (
  cap_staleness as cap_staleness,
  divide_by_staleness as divide_by_staleness,
  limit_late_steps as limit_late_steps,
  ringmaster_threshold as ringmaster_threshold,
  scale_by_staleness as scale_by_staleness,
)
