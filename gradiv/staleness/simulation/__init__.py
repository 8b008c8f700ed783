"""Simulate asynchronous workers on the host, then replay them in one scan."""

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
