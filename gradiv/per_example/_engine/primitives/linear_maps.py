"""Linear equations behind which a product must be written out."""

from gradiv.per_example._engine import linear, registry


def _selected(program, equation, place):
  """Choosing between a value and zeros is linear: a mask on a weight."""
  others = [x for i, x in enumerate(equation.ins) if i not in (0, place)]
  if place == 0 or not all(map(program.is_zero, others)):
    return None
  return linear.applied(program, equation, place)


registry.register('cumsum', linear=linear.applied_at(0))
registry.register('triangular_solve', linear=linear.applied_at(1))
registry.register('select_n', linear=_selected)
