"""Does the noise scale predict the critical batch size that branches measure?

  python -m experiments.critical_batch --workdir=runs/critical_batch

Merrill, Arora, Groeneveld, Hajishirzi, `Critical Batch Size Revisited
<https://arxiv.org/abs/2505.23971>`_, 2025, on two data sets that come with the
repository: digits, an MLP and SGD; the help texts of Python by characters, a
transformer and Adam. About five minutes on two CPU cores.

  trunk     one run at a small batch, which tracks the moments of its examples
  branches  from points along it, at 1 to 32 times the batch, on the same
            examples; the learning rate grows with the batch (SGD) or with its
            root (Adam)
  fixed     whole runs, from the start of the trunk to the end of its branches
  ramps     from the first point on, the batch size that the branches measured,
            or that the noise scale predicted, until the next point

The critical batch size is the largest whose smoothed loss, at the end of the
branches, is within a tolerance of that of the small batch. It is compared with
B_S, and with what the noise scale says of that very number.
"""
