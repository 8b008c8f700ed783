"""Does filtering micro-gradients by their agreement help against label noise?

  python -m experiments.agreement_filtering --workdir=runs/agreement_filtering

Chaubard, Eddy, Kochenderfer, `Beyond Gradient Averaging in Parallel
Optimization: Improved Robustness through Gradient Agreement Filtering
<https://arxiv.org/abs/2412.18052>`_, 2024, on the embedded digits: a few
minutes on two CPU cores. Each step takes class-balanced micro-batches, of
which a share of the labels is wrong, and filters their gradients by cosine
distance before it averages them. Three questions, a figure each:

  accuracy   How accurate is what was trained, by the share of wrong labels, for
             the mean, the four ways to filter, the geometric median, and for
             the controls: blind filtering at the same rate, as many updates,
             micro-batches balanced by the true labels?
  distances  How far apart are micro-gradients along the training, how many
             steps does the filter skip, and what is memorized?
  thresholds Which threshold does each way to filter want?

The learning rate is tuned for each arm, threshold and noise, on a part of the
training set that is held out (with its true labels). The test set is read once,
in the end, for the rates chosen. What the largest rate gives, at which the mean
memorizes, is shown beside it. Sampling and optimizer are those of the paper's
code, but for its weight decay of 1e-2, with which nothing is memorized here;
what it leaves open, and this chooses: a fixed learning rate, a fixed number of
steps, the final parameters.
"""
