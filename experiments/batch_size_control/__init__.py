"""Does a controller choose good batch sizes while a network trains?

  python -m experiments.batch_size_control --workdir=runs/batch_size_control

On the embedded digits, in two minutes on two CPU cores. All runs take the same
number of scale-invariant iterations, with the learning rate and the schedule of
batch 16 and the gain of AdaScale. What differs is the batch:

  16 to 512     fixed
  noise_scale   the noise scale, McCandlish et al., `An Empirical Model of
                Large-Batch Training <https://arxiv.org/abs/1812.06162>`_, 2018
  four          four times the noise scale
  norm_test     the norm test, Byrd et al., `Sample Size Selection in
                Optimization Methods for Machine Learning
                <https://doi.org/10.1007/s10107-012-0572-5>`_, 2012
  divebatch     half of the batch-size bound, never falling, Chen, Wang,
                Sundaram, `DiveBatch <https://arxiv.org/abs/2509.16173>`_, 2025

A controller begins at 16 and sees the tracked moments of 8 workers.
"""
