"""Does decentralized training converge where synchronous training diverges?

  python -m experiments.decentralized --workdir=runs/decentralized

Zhang, Liu, Feng, Cui, Kingsbury, Tu, `Loss Landscape Dependent Self-Adjusting
Learning Rates in Decentralized Stochastic Gradient Descent
<https://arxiv.org/abs/2112.01433>`_, 2021, on the embedded digits. A network of
64, 50, 50 and 10 units without biases learns from five workers with batches of
200 examples each, at learning rates that are too large for it. With DPSGD each
worker keeps parameters of its own, averages them with a random partner, and
takes its gradient at them. Three figures:

  success   How many runs end with 95 % test accuracy, by learning rate and arm?
            (The paper's main claim.)
  along     The effective learning rate α_e, and how far the workers are apart,
            along the training.
  text      The same as `success` for an LSTM that predicts the next character.

A table of claims follows. Among the arms is the control that could make
decentralization needless: synchronous training on which the effective rate that
DPSGD had is imposed (see `decentralized.arms`). The paper's own tables, and
where they differ from its text, are in docs/papers/zhang_2021.md.

Its figures of MNIST do not state biases, the scale of the images, the number of
steps or the seeds. We chose: no biases, plain SGD without warm-up, batches
drawn with replacement, pixels from 0 to 1 less their mean. Of the scales that
we tried, this is the one at which SSGD stops converging near a rate of 2. The
rates and steps for text come from trial runs. The thresholds of the claims were
fixed before the runs. g is the gradient over the whole training set at the
workers' mean w_a, and w_a is what is tested.

Runs at such rates are chaotic: rounding decides whether a single run succeeds.
Each main arm therefore has 32 seeds, and everything is trained twice, the
second time with the examples of each batch in reverse order. A claim on which
the two disagree is open. All of it takes 8 to 10 minutes on two CPU cores; more
seeds (--num_seeds=48) go on from there.
"""
