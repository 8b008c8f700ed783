"""How far are large batches and stale gradients free? One number says it.

  python -m experiments.critical_parameters --workdir=runs/critical_parameters

Stich, Mohtashami, Jaggi, `Critical Parameters for Scalable Distributed
Learning with Large Batches and Asynchronous Updates
<https://arxiv.org/abs/2103.02351>`_, 2021: some three minutes on two CPU cores.
Its abstract says that speed-up saturates, in batches and in delays alike, at
one parameter that depends on the data, and that sparsity helps. Where the noise
of a gradient has E‖ξ‖² ≤ M ‖∇f‖² + σ², steps to ‖∇f‖² = ε on batches of b,
with gradients τ steps old, go with τ + 1 + (M + σ²/ε)/b. Five studies put that
to the test:

  quadratic  Steps to 1e-6 on isotropic least squares, M = d + 1, by batch and
             delay: do all fall onto one curve of τ + 1 + M/b?
  noise      The same with label noise: of τ + 1 + (M + σ²/ε)/b?
  sparse     Logistic regression on sparse data: from which delay on does it
             take twice the steps, by the density Δ, M ≥ 1/Δ − 1?
  network    A network on the embedded digits: do the batch and the delay at
             which steps double, and the M tracked along the training, agree?
  rates      Which is the largest stable rate on least squares, beside
             c/(λ_max (τ + 1 + M/b)), c from π/2 to 2?

The rate is tuned in each cell, on one grid for all; that of each run on the
other runs, so that no run is told of at a rate that its own luck chose. The
table lists every claim with what was measured, its 95 % interval over runs, and
whether that lies within what the law allows. What the paper's own experiments
were we could not read; these are not they.
"""
