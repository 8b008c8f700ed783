"""Products inside loops and branches, seen from outside."""

from gradiv.per_example._engine import registry


def _terms_of_scan(cutter, equation, out):
  """Return the terms of what a loop stacks, or adds up in a carry.

  Going backward through time, a layer inside a loop has

    recurrence, one weight for all steps       layers, stacked weights [L, a, b]
    dW = 0                                     for each step:
    for each step:                               dWs[step] = h ⊗ δ
      dW = dW + h ⊗ δ        carry             result: dWs         stacked
    result: dW

  In both the body holds the term h ⊗ δ. Lifted out of the loop, h and δ are
  stacked over the steps, which become positions k for the sum on the left and
  blocks z for the stack on the right.
  """
  index, _ = cutter.program.producer[equation.outs[0]]
  body, inside = cutter.program.body(index), cutter.inside(equation, None)
  num_consts, num_carry = cutter.program.carries(index)
  found = inside.walk(body.outputs[out])
  start = []
  if out < num_carry:
    # The body must return the carry, unchanged, plus other terms.
    carried = body.inputs[num_consts + out]
    is_carry = lambda term: (
      term.operands == (carried,) and not term.product and not term.ops
      and term.constant == 1)
    if sum(map(is_carry, found)) != 1:
      return []
    found = [term for term in found if not is_carry(term)]
    start = cutter.follow(equation.ins[num_consts + out])
  if not all(map(_can_leave, found)):
    return []
  stack = ('sum' if out < num_carry else 'keep', equation.params['length'])
  return [term.lifted(index, None, stack) for term in found] + start


def _terms_of_cond(cutter, equation, out):
  """Return the terms of all branches; those of branches not taken are zero."""
  index, _ = cutter.program.producer[equation.outs[0]]
  found = []
  for branch in range(len(equation.params['branches'])):
    inside = cutter.inside(equation, branch)
    mine = inside.walk(cutter.program.body(index, branch).outputs[out])
    if not all(map(_can_leave, mine)):
      return []
    found += [term.lifted(index, branch, None) for term in mine]
  return found


def _can_leave(term):
  """Return whether a term inside an equation can be finished outside.

  Values that linear equations behind it need would differ between the steps.
  """
  return term.product is not None and not any(op.common for op in term.ops)


def _terms_of_barrier(cutter, equation, out):
  return cutter.follow(equation.ins[out])


def _flops_of_scan(program, index):
  body = program.body(index)
  return program.equations[index].params['length'] * sum(
    registry.flops(body, i) for i in range(len(body.equations)))


registry.register('scan', terms=_terms_of_scan, flops=_flops_of_scan)
registry.register('cond', terms=_terms_of_cond)
registry.register('optimization_barrier', terms=_terms_of_barrier)
