"""How large can batches be, and how old gradients, before training slows down?

  python -m experiments.critical_parameters --workdir=runs/critical_parameters

Stich, Mohtashami, Jaggi, `Critical Parameters for Scalable Distributed
Learning with Large Batches and Asynchronous Updates
<https://arxiv.org/abs/2103.02351>`_, 2021; about three minutes on two CPU
cores. The abstract says that the speed-up from larger batches and the tolerance
of delays saturate at the same parameter of the data, and that sparse data
tolerates more delay. We could read only the abstract: the laws below are our
derivation, and the experiments are ours.

The noise ξ of a gradient satisfies E‖ξ‖² ≤ M ‖∇f‖² + σ². With batches of b
examples and gradients that are τ steps old, the number of steps to ‖∇f‖² = ε
is proportional to τ + 1 + (M + σ²/ε)/b. Five studies test this law:

  quadratic  Least squares without label noise, M = d + 1: do the steps depend
             on batch and delay through τ + 1 + M/b alone?
  noise      Least squares with label noise: does σ²/ε add to M?
  sparse     Logistic regression on sparse data, where a share Δ of the rows
             uses each coordinate and M ≥ 1/Δ − 1: which delay doubles the
             steps?
  network    A network on the embedded digits: do the critical batch, the
             critical delay and the M tracked during training agree?
  rates      Least squares: is the largest stable learning rate
             c/(λ_max (τ + 1 + M/b)) with c from π/2 to 2?

The learning rate is tuned in every setting on a common grid. Each run uses the
rate that is best for the other runs, so that the luck of a run does not choose
its own rate. Allowed ranges are round numbers that we chose while we built the
studies.

These runs are not chaotic. At stable rates, rounding errors decay with the
error itself: in the settings where we compared two orders of summation, no step
count of the simulations moved, and those of the network moved by less than 1e-7
of their value. `--roundings=2` repeats the comparison for all settings: the
second run adds the terms of every sum over coordinates, and over the examples
of a batch, in reverse order.
"""
