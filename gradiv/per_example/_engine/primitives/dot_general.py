"""Matrix products: dense layers, einsums, attention heads."""

import functools
import math

from gradiv.per_example._engine import linear, registry
from gradiv.per_example._engine.outer_product import OuterProduct


def _product(program, equation):
  """See Σ_k x[z, k, a] y[z, k, b]: batch axes are z, contracted ones k.

  The gradient of x @ w is xᵀ δ: positions k are contracted, the features of x
  are a and those of the errors δ are b.
  """
  del program
  x, y = equation.ins
  (x_sum, y_sum), (x_batch, y_batch) = equation.params['dimension_numbers']
  free = lambda v, *used: tuple(
    d for d in range(v.aval.ndim) if d not in sum(map(tuple, used), ()))
  x_free, y_free = free(x, x_sum, x_batch), free(y, y_sum, y_batch)
  size = lambda v, dims: math.prod(v.aval.shape[d] for d in dims)
  z, k = size(x, x_batch), size(x, x_sum)
  a, b = size(x, x_free), size(y, y_free)

  labels = ([('z', x.aval.shape[d]) for d in x_batch]
            + [('a', x.aval.shape[d]) for d in x_free]
            + [('b', y.aval.shape[d]) for d in y_free])
  make_factors = functools.partial(
    _make_factors, ((*x_batch, *x_sum, *x_free), (*y_batch, *y_sum, *y_free)),
    ((z, k, a), (z, k, b)))
  return OuterProduct((x, y), make_factors, tuple(labels), (z, k, a, b),
                      scaled=1, precision=equation.params['precision'])


def _make_factors(orders, shapes, x, y):
  return tuple(v.transpose(order).reshape(shape)
               for v, order, shape in zip((x, y), orders, shapes))


def _flops(program, index):
  equation = program.equations[index]
  (summed, _), _ = equation.params['dimension_numbers']
  return 2 * math.prod(equation.outs[0].aval.shape) * math.prod(
    equation.ins[0].aval.shape[d] for d in summed)


registry.register('dot_general', product=_product, linear=linear.times_matrix,
                  keeps_zero=True, flops=_flops)
