"""Changes of shape and order: the elements of the product stay the same."""

import functools

from jax import lax

from gradiv.per_example._engine import labels, linear, registry


def _transposed(program, equation, place):
  del program
  order = tuple(equation.params['permutation'])
  shape = equation.ins[place].aval.shape
  return linear.LinearOp(
    'transpose', order, functools.partial(_transpose, order),
    relabel=lambda found: labels.transposed(found, shape, order))


def _transpose(order, x):
  return lax.transpose(x, order)


def _reversed(program, equation, place):
  del program, place
  return linear.LinearOp(
    'rev', equation.params['dimensions'], lambda x: equation.bind(x)[0],
    relabel=lambda found: None)


registry.register('reshape', 'squeeze', linear=linear.reshaped,
                  keeps_zero=True)
registry.register('transpose', linear=_transposed, keeps_zero=True)
registry.register('rev', linear=_reversed)
registry.register('broadcast_in_dim', linear=linear.spread,
                  keeps_zero=True)
