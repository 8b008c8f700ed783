"""Decentralized training: each worker has its own parameters and mixes them.

Each transformation goes last in a worker's chain. It replaces the update u by
one that also moves the parameters toward those of other workers. Parameters and
state differ by worker: start from ``gradiv.replicate(..., n)``. All workers
must take part in every step; put wrappers that skip steps, such as
`optax.apply_if_finite`, around the links before the mixing, not around it.

Which one? A message is one copy of the parameters to each neighbor. "Exact"
methods end at the optimum even if the workers' data differ; the others end
O(α) away from it at learning rate α.

  mix_by_               use it                            messages      exact
                                                          per step
  gossip                first of all, in one of 3 orders  1             no
  exact_diffusion (D²)  undirected, constant graphs       1             yes
  extra                 to send before the gradient is    1             yes
                        known
  gradient_tracking     with mix_by_gossip: any graph,    2             yes
                        adaptive optimizers
  relay                 trees (RelaySGD)                  1             yes
  quasi_global_momentum with momentum                     1             no
  decentlam             with momentum, large batches      1             no
  choco                 with compressed messages          less than 1   no
  push_sum              directed graphs; exact after      1             no
                        mix_by_gradient_tracking

Between all workers, once in H steps, by one all-reduce (exact only if H = 1):
`local_sgd`, `mix_by_slow_momentum`, `diloco` (also streaming), and
`mix_by_outer_step` with any other outer optimizer.

What is not finite is left out, and counted in the state as `num_left_out`. Each
worker sees it in what has arrived, so that nothing more is sent.

* A worker whose own update is not finite takes a step of zero and mixes as
  ever. An optimizer in front that remembers it, such as momentum, gives no
  finite update any more: put `optax.apply_if_finite` around it.
* A neighbor that sends anything that is not finite is left out, and its weight
  stays with the worker itself. A symmetric matrix stays doubly stochastic among
  the others, whose mean moves by the mean of their updates. With a directed
  one, a worker behind the bad one counts more in that mean, and one in front of
  it less. On the complete graph, and in outer steps, the mean is that of the
  finite workers.
* Parameters that are not finite stay so, as updates are added to them: copy
  those of another worker.
* The shards of a worker's parameters decide alike, by a psum of one number per
  message over the axes of the shards. Their types name these axes, in `on_mesh`
  and under ``shard_map(check_vma=True)``. With ``check_vma=False`` nothing
  does, and each shard decides by itself.

`topology` has the graphs, `mix` averages any tree once, and
`consensus_distance` says how far the workers are apart.
"""

from gradiv.decentralized.choco import (
  MixByChocoState as MixByChocoState,
  mix_by_choco as mix_by_choco,
)
from gradiv.decentralized.consensus_steps import (
  tune_consensus_step as tune_consensus_step,
)
from gradiv.decentralized.exact_diffusion import (
  MixByCorrectionState as MixByCorrectionState,
  mix_by_exact_diffusion as mix_by_exact_diffusion,
  mix_by_extra as mix_by_extra,
)
from gradiv.decentralized.gossip import (
  ORDERS as ORDERS,
  MixByGossipState as MixByGossipState,
  mix_by_gossip as mix_by_gossip,
)
from gradiv.decentralized.gradient_tracking import (
  MixByGradientTrackingState as MixByGradientTrackingState,
  mix_by_gradient_tracking as mix_by_gradient_tracking,
)
from gradiv.decentralized.mixing import (
  consensus_distance as consensus_distance,
  mix as mix,
)
from gradiv.decentralized.momentum import (
  MixByMomentumState as MixByMomentumState,
  mix_by_decentlam as mix_by_decentlam,
  mix_by_quasi_global_momentum as mix_by_quasi_global_momentum,
)
from gradiv.decentralized.outer_steps import (
  MixByOuterStepState as MixByOuterStepState,
  mix_by_outer_step as mix_by_outer_step,
)
from gradiv.decentralized.periodic_averaging import (
  diloco as diloco,
  local_sgd as local_sgd,
  mix_by_slow_momentum as mix_by_slow_momentum,
)
from gradiv.decentralized.push_sum import (
  MixByPushSumState as MixByPushSumState,
  mix_by_push_sum as mix_by_push_sum,
)
from gradiv.decentralized.relay import (
  MixByRelayState as MixByRelayState,
  mix_by_relay as mix_by_relay,
)
