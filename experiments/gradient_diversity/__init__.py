"""How gradient diversity limits the batch size of a real network.

  python -m experiments.gradient_diversity --workdir=runs/gradient_diversity

Yin et al., `Gradient Diversity: a Key Ingredient for Scalable Distributed
Learning <https://proceedings.mlr.press/v84/yin18a.html>`_, 2018, on the
embedded digits: about two minutes on two CPU cores. Of the training set a
random 1/r is kept and repeated r times, which lowers its diversity (their
section 6), and mini-batch SGD is tuned for each batch size and r. Four
questions, a figure each:

  diversity   How large is B_S along the training: over the whole set, exactly,
              in all and by layer; as tracked by the workers, with its
              confidence band; and from the single examples of each batch?
  loss_ratio  After equal numbers of data passes, how much higher is the loss
              of large batches than of the smallest? (their Figure 2)
  collapse    How many gradient evaluations does a target loss take at each
              batch size, and what does the measured noise scale predict?
  stability   How far apart do two runs end whose training sets differ in one
              example? (their Figure 3)

  python -m experiments.gradient_diversity --workdir=runs/mechanisms \
    --flagfile=experiments/gradient_diversity/flags/digits_mechanisms.flags

With --study=mechanisms, some twelve minutes: what masks, noise and rounding of
the gradients do (their section 4.4 and Table 1). Three more figures:

  bounds      How large is B_S of a trained network's gradients under each
              mechanism, with draws tied to the example, fresh, and shared, and
              what do the closed forms say?
  rounds      How many steps does a training accuracy take by batch size, with
              the rate tuned for each cell, and how long would that be where
              a step costs communication + computation · B/workers?
  bits        How accurate is what was trained with fewer bits on the wire?

What the paper leaves open, and this chooses: sampling with replacement (its
equation 2), plain SGD, a learning rate on the *mean* gradient from a grid,
tuned for each cell by what the figure shows; masks of each worker's own, or,
with --per_example, of each example's.
"""
