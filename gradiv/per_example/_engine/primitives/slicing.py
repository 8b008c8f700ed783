"""Slices: of a product, the product of a slice of one factor."""

from gradiv.per_example._engine import linear, registry


def _part(cutter, value, cuts):
  """Cut slices (axis, low, high) out of the terms of a value, if possible."""
  found = cutter.follow(value)
  for axis, low, high in cuts:
    found = [term.part(axis, low, high) for term in found]
    if None in found:
      return []
  return found


def _terms_of_slice(cutter, equation, out):
  del out
  params, (x,) = equation.params, equation.ins
  cuts = [(d, low, high) for d, (low, high) in enumerate(zip(
    params['start_indices'], params['limit_indices']))
    if (low, high) != (0, x.aval.shape[d])]
  dense = set(params['strides'] or (1,)) == {1}
  return dense and _part(cutter, x, cuts) or cutter.linear(equation)


def _terms_of_split(cutter, equation, out):
  axis, sizes = equation.params['axis'], equation.params['sizes']
  low = sum(sizes[:out])
  return _part(cutter, equation.ins[0], [(axis, low, low + sizes[out])])


registry.register('slice', terms=_terms_of_slice, linear=linear.applied)
registry.register('split', terms=_terms_of_split)
registry.register('dynamic_slice', 'gather', linear=linear.applied_at(0))
