"""Does decentralized training converge where synchronous training diverges?

  python -m experiments.decentralized --workdir=runs/decentralized

Zhang, Liu, Feng, Cui, Kingsbury, Tu, `Loss Landscape Dependent Self-Adjusting
Learning Rates in Decentralized Stochastic Gradient Descent
<https://arxiv.org/abs/2112.01433>`_, 2021, on the embedded digits: a few
minutes on two CPU cores. A network of 64, 50, 50 and 10 units without biases
learns from five workers of 200 examples each, at rates that are too large.
With DPSGD each worker keeps parameters of its own, averages them with a random
partner, and takes its gradient at them. Three figures:

  success   How many runs end with 95 % test accuracy, by rate and arm, batch
            and topology? (The paper's main claim.)
  along     How large are the effective learning rate α_e, the noise across the
            gradient and the spread σ_w² along the training?
  text      The same for an LSTM that predicts the next character.

and a table of claims: what is claimed, what was tested, what was measured with
its 95 % interval over the seeds, and whether it holds. Among the arms is the
control that could make decentralization needless: synchronous training on which
the effective rate that DPSGD had is imposed. See `decentralized_arms`.

What could not be read in the paper, and this chooses: plain SGD without
warm-up, batches drawn with replacement, images as grey levels from 0 to 1 less
their mean: of the scales tried, the one at which synchronous training stops at
a rate near 2. Rates and steps of the text were chosen so that it bears the
first and not the others. Thresholds of the claims were fixed before. g is the
gradient over the whole training set at w_a; of DPSGD, w_a is judged. Runs are
chaotic near the edge: on another machine some end otherwise.
"""
