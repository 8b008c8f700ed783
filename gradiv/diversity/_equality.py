"""Whether a reading is of gradients that were all equal, up to rounding.

B_S then seems to be 1 or less. Mostly the tracker stands behind an aggregation,
where every worker has the same gradient, and knows nothing.
"""

from gradiv.diversity.reading import Reading

# A spread of gradients below this part of ‖ḡ‖² is rounding: of examples, whose
# spread is a difference, and of workers, whose mean is a sum of thousands.
# Of workers, tr Σ is at most the batch size times the spread.
_OF_EXAMPLES, _OF_WORKERS = 1e-7, 1e-11
# That of sums over a window, in a ratio.
_OF_WINDOWS = 1e-5

EQUAL = (
  'all gradients were equal up to rounding; probably track_moments stands '
  'behind the aggregation (put it before), or all are of the same examples')


def is_of_equal_gradients(reading: Reading, batch_size: float) -> bool:
  """Return whether all gradients were equal up to rounding.

  The average sums tr Σ by itself, to full precision; but a step with a very
  long gradient may dominate it, as none dominates the window.
  """
  rounding = max(_OF_EXAMPLES, _OF_WORKERS * batch_size)
  return all(
    float(e.variance) < share * float(e.sq_norm)
    for e, share in ((reading.average, rounding),
                     (reading.estimate, max(rounding, _OF_WINDOWS))))
