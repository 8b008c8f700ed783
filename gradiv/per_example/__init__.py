"""Statistics over the gradients of the examples of a batch."""

from gradiv.per_example.batch_loss import as_value_and_grad as as_value_and_grad
from gradiv.per_example.explaining import explain as explain
from gradiv.per_example.statistics import (
    example_gram as example_gram,
    example_moments as example_moments,
    example_sq_norms as example_sq_norms,
)
