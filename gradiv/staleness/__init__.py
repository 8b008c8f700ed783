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
)
from gradiv.staleness.correctors import compensate_delay as compensate_delay
from gradiv.staleness.correctors import predict_params as predict_params
from gradiv.staleness.delay import DelayUpdatesState as DelayUpdatesState
from gradiv.staleness.delay import delay_updates as delay_updates
from gradiv.staleness.events import LAWS as LAWS
from gradiv.staleness.events import Trace as Trace
from gradiv.staleness.events import simulate as simulate
from gradiv.staleness.models import Drawn as Drawn
from gradiv.staleness.models import Recorded as Recorded
from gradiv.staleness.models import Staleness as Staleness
from gradiv.staleness.models import pipeline_staleness as pipeline_staleness
from gradiv.staleness.replaying import Replay as Replay
from gradiv.staleness.replaying import replay as replay
from gradiv.staleness.servers import RULES as RULES
from gradiv.staleness.steps import cap_staleness as cap_staleness
from gradiv.staleness.steps import divide_by_staleness as divide_by_staleness
from gradiv.staleness.steps import limit_late_steps as limit_late_steps
from gradiv.staleness.steps import ringmaster_threshold as ringmaster_threshold
from gradiv.staleness.steps import scale_by_staleness as scale_by_staleness
