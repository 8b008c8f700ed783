"""Per-example gradient statistics of one batch, at about the price of a step.

How much do the gradients of the examples in a batch disagree? Give the loss of
one example to

* `example_moments` for loss, gradient and `Moments`: diversity, B_S, noise;
* `example_sq_norms` for the norms: clip, weight or drop single examples;
* `example_gram` for all inner products: filter examples by agreement, or apply
  any other rule of `gradiv.weightings`;
* `loss_gram` for the inner products of the gradients of several losses;
* `clipped_grad` for the sum of clipped gradients, as JAX-Privacy has it;
* `explain` to see how each parameter is treated, and what that costs;

or the loss of a batch to `as_value_and_grad`. All are exact, for any JAX loss;
per-example gradients are not written out.
"""

from gradiv.per_example.batch_loss import as_value_and_grad as as_value_and_grad
from gradiv.per_example.clipped_sums import (
  Aux as Aux,
  ClippedSum as ClippedSum,
  clipped_grad as clipped_grad,
)
from gradiv.per_example.example_grams import example_gram as example_gram
from gradiv.per_example.example_norms import (
  example_sq_norms as example_sq_norms,
)
from gradiv.per_example.explaining import (
  Explanation as Explanation,
  explain as explain,
)
from gradiv.per_example.several_losses import loss_gram as loss_gram
from gradiv.per_example.statistics import example_moments as example_moments
