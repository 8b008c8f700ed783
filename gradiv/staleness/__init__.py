"""Train with stale gradients: delay them, simulate them, correct for them.

  delay_updates       make updates τ steps late: fixed, per worker, per leaf,
                      drawn, or recorded
  history             keep past parameters, to take gradients there
  simulate, replay    asynchronous workers of different speed: simulate the
                      arrivals on the host, then train along them in one scan
  scale_by_staleness  take shorter steps along stale gradients
  with_staleness      pass the staleness of a delay to the rest of a chain
  compensate_delay    estimate the present gradient from a stale one

Delays below the critical one, `gradiv.critical_delay`, cost almost nothing.
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
from gradiv.staleness.scaling_steps import (
  WithStalenessState as WithStalenessState,
  scale_by_staleness as scale_by_staleness,
  with_staleness as with_staleness,
)
from gradiv.staleness.simulation import (
  LAWS as LAWS,
  RULES as RULES,
  Replay as Replay,
  Trace as Trace,
  replay as replay,
  simulate as simulate,
)
from gradiv.staleness.step_sizes import (
  cap_staleness as cap_staleness,
  divide_by_staleness as divide_by_staleness,
  limit_late_steps as limit_late_steps,
  ringmaster_threshold as ringmaster_threshold,
)
