"""Zeros put around a product: the gradient of a slice of a parameter."""

from gradiv.per_example._engine import linear, registry


def _padded(program, equation, place):
  """See a box in zeros if nothing is cut off or put between, else apply."""
  if place != 0 or not program.is_zero(equation.ins[1]):
    return None
  config = equation.params['padding_config']
  if any(low < 0 or high < 0 or between for low, high, between in config):
    return linear.applied(program, equation, place)
  return linear.boxed(equation.outs[0].aval.shape, tuple(
    (int(low), int(low) + size)
    for (low, _, _), size in zip(config, equation.ins[0].aval.shape)))


def _terms_of_concatenate(cutter, equation, out):
  """Return the terms of each operand, each in a box of its own."""
  del out
  axis, low, found = equation.params['dimension'], 0, []
  shape = equation.outs[0].aval.shape
  for x in equation.ins:
    high = low + x.aval.shape[axis]
    box = tuple((low, high) if d == axis else (0, size)
                for d, size in enumerate(shape))
    found += [term.then(linear.boxed(shape, box)) for term in cutter.follow(x)]
    low = high
  return found


registry.register('pad', linear=_padded)
registry.register('concatenate', terms=_terms_of_concatenate)
