"""What the statistics of single examples cost, as ratios within one run.

  python -m experiments.overhead.examples --workdir=runs/overhead/examples

Ways to a step that also learns the squared norm of each example's gradient,
beside the plain step, which does not: jax.vmap(jax.grad), what JAX-Privacy
clips by, and gradiv's pass for the moments, for each norm, or for the Gram
matrix of all examples. For each network: the time of a step, the temporary
memory of the compiled program, and the FLOPs of its products. All come from
one process, their steps taken in turn; only ratios mean anything elsewhere.
The numbers of each way are held against one example after the other.
"""
