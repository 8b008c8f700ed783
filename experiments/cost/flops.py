"""The FLOPs of a program's matrix products and convolutions, off its trace.

XLA's own count takes the body of a loop once, however often it runs, so that
a scan over examples or over time would look free.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.interpreters import partial_eval


def flops_traced(fn: Callable, *args: Any) -> int:
  """Count the FLOPs of the products in ``fn(*args)``, two a multiplication.

  A scan counts as often as it runs, of a cond the dearest branch; a loop of
  unknown length counts once. Elementwise work counts nothing, nor does a
  product that no result needs.

  >>> import jax.numpy as jnp
  >>> matrix = jnp.ones((5, 5))
  >>> flops_traced(lambda x: x @ matrix, jnp.ones(5))
  50
  >>> step = lambda x, _: (x @ matrix, None)
  >>> flops_traced(lambda x: jax.lax.scan(step, x, length=3), jnp.ones(5))
  150
  """
  jaxpr = jax.make_jaxpr(fn)(*args).jaxpr
  needed, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
  return _count(needed)


def _count(jaxpr):
  total = 0
  for equation in jaxpr.eqns:
    name, params = equation.primitive.name, equation.params
    shapes = [x.aval.shape for x in (*equation.invars, *equation.outvars)]
    if name == 'dot_general':
      total += _of_dot(*shapes, params['dimension_numbers'])
    elif name == 'conv_general_dilated':
      total += _of_conv(*shapes, params)
    inner = [_count(getattr(p, 'jaxpr', p))
             for p in jax.tree.leaves(list(params.values()))
             if hasattr(getattr(p, 'jaxpr', p), 'eqns')]
    together = max if name == 'cond' else sum
    total += params['length'] * sum(inner) if name == 'scan' else (
      together(inner) if inner else 0)
  return total


def _of_dot(left, right, out, dimension_numbers):
  del right
  (contracted, _), _ = dimension_numbers
  return 2 * math.prod(out) * math.prod(left[axis] for axis in contracted)


def _of_conv(left, right, out, params):
  """Count the products that meet an element, and neither padding nor holes."""
  numbers = params['dimension_numbers']
  total = 2 * right[numbers.rhs_spec[1]] * math.prod(
    out[axis] for axis in numbers.out_spec[:2])
  for i, (low, _) in enumerate(params['padding']):
    size, window, places = (shape[spec[2 + i]] for shape, spec in zip(
      (left, right, out),
      (numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec)))
    hole = params['lhs_dilation'][i]
    at = np.add.outer(params['window_strides'][i] * np.arange(places),
                      params['rhs_dilation'][i] * np.arange(window)) - low
    total *= int(np.sum((at >= 0) & (at <= hole * (size - 1))
                        & (at % hole == 0)))
  return total
