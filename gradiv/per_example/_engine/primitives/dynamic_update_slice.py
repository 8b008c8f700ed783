"""One slice written into zeros: the gradient of w[label], or of w[3]."""

import jax.numpy as jnp
import numpy as np

from gradiv.per_example._engine import factors, linear, registry
from gradiv.per_example._engine.outer_product import OuterProduct


def _product(program, equation):
  """See the one-hot row u [1, a] of the index and the slice v [1, b]."""
  zeros, update, *index = equation.ins
  shape, small = zeros.aval.shape, update.aval.shape
  axes = [d for d in range(len(shape)) if shape[d] != small[d]]
  if not program.is_zero(zeros) or len(axes) != 1 or small[axes[0]] != 1:
    return None
  (axis,) = axes
  a, b = shape[axis], update.aval.size

  def make_factors(index, update):
    # jax moves a slice that would reach beyond the end until it fits.
    index = jnp.clip(index.astype(jnp.int32), 0, a - 1).reshape(1, 1)
    return factors.OneHot(index, a), update.reshape(1, 1, b)

  labels = tuple(('a' if d == axis else 'b', s) for d, s in enumerate(shape))
  return OuterProduct((index[axis], update), make_factors, labels, (1, 1, a, b),
                      scaled=1, is_sparse=True)


def _linear(program, equation, place):
  """See a box in zeros if the index is known, else a linear equation."""
  zeros, update, *index = equation.ins
  if place != 1 or not program.is_zero(zeros):
    return None
  if any(x.number is None for x in index):
    return linear.applied(program, equation, place)
  shape, small = equation.outs[0].aval.shape, update.aval.shape
  starts = [int(np.clip(x.number, 0, n - s))
            for x, n, s in zip(index, shape, small)]
  return linear.boxed(shape, tuple(
    (start, start + s) for start, s in zip(starts, small)))


def _terms(cutter, equation, out):
  """Cut where the index depends on the example.

  Where it is common to all examples, the slice is only padded by zeros, and
  there may be a better product behind it.
  """
  del out
  by_example = any(x in cutter.varying for x in equation.ins[2:])
  return by_example and cutter.product(equation) or cutter.linear(equation)


registry.register('dynamic_update_slice', product=_product, linear=_linear,
                  terms=_terms)
