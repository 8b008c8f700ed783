"""Statistics over the gradients of the examples of a batch."""

from gradiv.examples.batches import as_value_and_grad as as_value_and_grad
from gradiv.examples.explaining import explain as explain
from gradiv.examples.statistics import example_gram as example_gram
from gradiv.examples.statistics import example_moments as example_moments
from gradiv.examples.statistics import example_sq_norms as example_sq_norms
