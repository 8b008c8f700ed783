"""What gradiv costs, as ratios within one run.

  python -m experiments.overhead --workdir=runs/overhead
  python -m experiments.overhead.page --take=runs/overhead

Four parts, of which `--parts` chooses. The exchange alone: the plain mean, and
beside it the mean with tracked moments, the Gram matrix, the mean in 8 and 4
bits, the mean of delayed gradients, gossip on a ring, and agreement filtering,
both by our exchange and after every worker has gathered every gradient. Layers:
what tracking by layer costs to compile and to run. Training: every
transformation and metric in a whole step. Peers: the rules under `vmap` beside
those of TorchJD, where it is installed. The steps of a table are taken in turn,
in one process; only ratios carry over to other machines.

`overhead.examples` measures per-example statistics, `overhead.zoo` takes them
of models that others wrote, and `overhead.accelerator` measures on the device
that JAX finds. `overhead.page` writes docs/performance.md from the records.
"""
