"""Workers with parameters of their own, which mix with their neighbours'.

Each transformation stands last in a worker's chain, takes the step that the
chain before it would make, and hands on the one that leads to where mixing
ends. Parameters and state are each worker's own: ``gradiv.replicate(..., n)``.
All workers must take part in each step: a wrapper that skips the steps of some,
such as `optax.apply_if_finite`, belongs around what stands before the mixing.

  plain       mix_by_gossip: decentralised SGD, in three orders
  corrected   exact where workers' data differ: exact diffusion (D²), EXTRA,
              gradient tracking
  momentum    quasi-global momentum, DecentLaM
  compressed  CHOCO-SGD, with any compressor
  directed    push-sum
  relay       RelaySGD, on trees
  outer       local SGD, SlowMo, DiLoCo and Streaming DiLoCo
"""

from gradiv.gossip.compressed import ChocoState as ChocoState
from gradiv.gossip.compressed import mix_by_choco as mix_by_choco
from gradiv.gossip.compressed import tune_consensus_step as tune_consensus_step
from gradiv.gossip.corrected import CorrectedState as CorrectedState
from gradiv.gossip.corrected import TrackGradientsState as TrackGradientsState
from gradiv.gossip.corrected import (
  mix_by_exact_diffusion as mix_by_exact_diffusion,
)
from gradiv.gossip.corrected import mix_by_extra as mix_by_extra
from gradiv.gossip.corrected import track_gradients as track_gradients
from gradiv.gossip.directed import PushSumState as PushSumState
from gradiv.gossip.directed import mix_by_push_sum as mix_by_push_sum
from gradiv.gossip.mixing import mix as mix
from gradiv.gossip.momentum import MixByMomentumState as MixByMomentumState
from gradiv.gossip.momentum import mix_by_decentlam as mix_by_decentlam
from gradiv.gossip.momentum import (
  mix_by_quasi_global_momentum as mix_by_quasi_global_momentum,
)
from gradiv.gossip.outer import OuterStepState as OuterStepState
from gradiv.gossip.outer import diloco as diloco
from gradiv.gossip.outer import local_sgd as local_sgd
from gradiv.gossip.outer import mix_by_outer_step as mix_by_outer_step
from gradiv.gossip.outer import slow_momentum as slow_momentum
from gradiv.gossip.plain import ORDERS as ORDERS
from gradiv.gossip.plain import MixByGossipState as MixByGossipState
from gradiv.gossip.plain import consensus_distance as consensus_distance
from gradiv.gossip.plain import mix_by_gossip as mix_by_gossip
from gradiv.gossip.relay import RelayState as RelayState
from gradiv.gossip.relay import mix_by_relay as mix_by_relay
