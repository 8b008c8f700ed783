"""Does AdaScale keep the quality of a small batch at every batch size?

  python -m experiments.adascale --workdir=runs/adascale

Johnson, Agrawal, Gu, Guestrin, `AdaScale SGD: A User-Friendly Algorithm for
Distributed Training <https://arxiv.org/abs/2007.05105>`_, 2020, on the embedded
digits: two minutes on two CPU cores. With S workers, AdaScale multiplies
the learning rate of a step by the gain r in [1, S], and moves r places along
the schedule. All arms do that, and differ in the gain:

  adascale   from the tracked moments of the workers' gradients
  linear     S, the linear scaling of the learning rate
  root       S, but the rate is multiplied by √S
  identity   1, no scaling
  constant   the mean gain of AdaScale in its run of the same seed

The learning rate is the best of a grid for the small batch, one for all arms.
"""
