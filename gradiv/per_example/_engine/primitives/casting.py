"""Changes of dtype or type that leave each element where it is."""

import functools

import jax.numpy as jnp

from gradiv.per_example._engine import linear, registry
from gradiv.per_example._engine.primitives import complex_numbers


def _cast(program, equation, place):
  """A cast only rounds, so inner products stay what they are."""
  del program, place
  dtype = equation.outs[0].aval.dtype
  return linear.LinearOp(
    equation.name, str(dtype), functools.partial(_as, dtype))


def _as(dtype, x):
  return x.astype(dtype)


def _terms(cutter, equation, out):
  """Follow a cast; from complex to real, it takes the real part."""
  del out
  (x,), (y,) = equation.ins, equation.outs
  is_complex = [jnp.issubdtype(v.aval.dtype, jnp.complexfloating)
                for v in (x, y)]
  if is_complex == [True, False]:
    return complex_numbers.terms_of_part(cutter, x, 'real')
  return cutter.linear(equation)


registry.register('convert_element_type', linear=_cast, terms=_terms,
                  keeps_zero=True)
registry.register('pvary', 'pcast', linear=linear.unchanged, keeps_zero=True)
registry.register('copy', 'copy_p', 'reduce_precision', 'sharding_constraint',
                  linear=linear.unchanged)
