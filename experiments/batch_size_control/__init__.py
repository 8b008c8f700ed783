"""What do controllers of the batch size save, at equal loss?

  python -m experiments.batch_size_control --workdir=runs/batch_size_control

On the embedded digits, in five minutes on two CPU cores. All runs have the
learning rate of batch 16, the gain of AdaScale, and a cosine schedule of some
length, in scale-invariant iterations. What differs is the batch:

  16 to 512     fixed
  noise_scale   the noise scale, McCandlish et al., `An Empirical Model of
                Large-Batch Training <https://arxiv.org/abs/1812.06162>`_, 2018
  four          four times the noise scale
  norm_test     the norm test, Byrd et al., `Sample Size Selection in
                Optimization Methods for Machine Learning
                <https://doi.org/10.1007/s10107-012-0572-5>`_, 2012
  divebatch     half of the batch-size bound, never falling, Chen, Wang,
                Sundaram, `DiveBatch <https://arxiv.org/abs/2509.16173>`_, 2025

A controller begins at 16 and sees the tracked moments of 8 workers. McCandlish
et al. compare the steps and the gradients that runs take to one loss, here that
of the best fixed batch after the first length. How long each arm must be for
that is found on seeds that are not reported.
"""
