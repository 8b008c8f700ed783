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

from gradiv.decentralized.choco import (
  ChocoState as ChocoState,
  mix_by_choco as mix_by_choco,
  tune_consensus_step as tune_consensus_step,
)
from gradiv.decentralized.corrected import (
  CorrectedState as CorrectedState,
  TrackGradientsState as TrackGradientsState,
  mix_by_exact_diffusion as mix_by_exact_diffusion,
  mix_by_extra as mix_by_extra,
  track_gradients as track_gradients,
)
from gradiv.decentralized.gossip import (
  ORDERS as ORDERS,
  MixByGossipState as MixByGossipState,
  consensus_distance as consensus_distance,
  mix_by_gossip as mix_by_gossip,
)
from gradiv.decentralized.mixing import mix as mix
from gradiv.decentralized.momentum import (
  MixByMomentumState as MixByMomentumState,
  mix_by_decentlam as mix_by_decentlam,
  mix_by_quasi_global_momentum as mix_by_quasi_global_momentum,
)
from gradiv.decentralized.outer_steps import (
  OuterStepState as OuterStepState,
  diloco as diloco,
  local_sgd as local_sgd,
  mix_by_outer_step as mix_by_outer_step,
  slow_momentum as slow_momentum,
)
from gradiv.decentralized.push_sum import (
  PushSumState as PushSumState,
  mix_by_push_sum as mix_by_push_sum,
)
from gradiv.decentralized.relay import (
  RelayState as RelayState,
  mix_by_relay as mix_by_relay,
)
