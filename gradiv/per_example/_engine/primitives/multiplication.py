"""Elementwise products, and sums over them: outer products by broadcasting."""

import functools
import math

import jax.numpy as jnp

from gradiv.per_example._engine import linear, registry, scaled_factors
from gradiv.per_example._engine.outer_product import OuterProduct


def _product(program, equation, summed=()):
  """See x[z, a] · y[z, b], both broadcast to [z, a, b] in any order of axes.

  An axis that both have is z, or k if it is summed afterwards.
  """
  shape = equation.outs[0].aval.shape
  (x, x_axes), (y, y_axes) = (_unbroadcast(program, v) for v in equation.ins)
  axes = {'a': [], 'b': [], 'z': [], 'k': []}
  for d, size in enumerate(shape):
    if size == 1:
      continue
    only_x, only_y = d not in y_axes, d not in x_axes
    if only_x and only_y or d in summed and (only_x or only_y):
      return None
    axes['k' if d in summed else 'a' if only_x else 'b' if only_y else 'z'
         ].append(d)
  if not axes['a'] or not axes['b']:
    return None
  sizes = {role: math.prod(shape[d] for d in axes[role]) for role in axes}

  def arranged(held, last):
    order = [held.index(d) for role in ('z', 'k', last) for d in axes[role]]
    ones = [i for i, d in enumerate(held) if shape[d] == 1]
    return (*ones, *order), (sizes['z'], sizes['k'], sizes[last])

  make_factors = functools.partial(
    _make_factors, arranged(x_axes, 'a'), arranged(y_axes, 'b'))
  roles = {d: role for role in ('a', 'b', 'z') for d in axes[role]}
  labels = tuple((roles[d], shape[d]) for d in range(len(shape)) if d in roles)
  return OuterProduct((x, y), make_factors, labels,
                      (sizes['z'], sizes['k'], sizes['a'], sizes['b']),
                      scaled=1)


def _make_factors(of_x, of_y, x, y):
  return tuple(v.transpose(order).reshape(shape)
               for v, (order, shape) in ((x, of_x), (y, of_y)))


def _product_of_sum(program, equation):
  """See Σ_k x[z, k, a] y[z, k, b], written as a product and a sum over k."""
  made = program.made_by(equation.ins[0])
  if made is None or made.name != 'mul':
    return None
  return _product(program, made, tuple(equation.params['axes']))


def _unbroadcast(program, value):
  """Find the value behind broadcasts, and its axes in this one."""
  axes = list(range(value.aval.ndim))
  while (made := program.made_by(value)) is not None:
    if made.name != 'broadcast_in_dim' or len(made.ins) != 1:
      break
    source, kept = made.ins[0], made.params['broadcast_dimensions']
    # An axis of one that is spread stays: it would be taken for one that is
    # not there.
    if any(s != value.aval.shape[d] for d, s in zip(kept, source.aval.shape)):
      break
    axes = [axes[d] for d in kept]
    value = source
  return value, axes


def _times(program, equation, place):
  """Multiplying by a scalar keeps the product behind; by an array, it may."""
  scalar = _scalar(program, equation.ins[1 - place])
  if scalar is None:
    return _along(program, equation, place)
  return _factor(program, equation, place, scalar)


def _divided(program, equation, place):
  if place:
    return None
  scalar = _scalar(program, equation.ins[1])
  if scalar is not None and scalar.number:
    return 1 / scalar.number
  return _along(program, equation, place)


def _along(program, equation, place):
  """Describe a product with, or quotient by, an array common to examples.

  A weight x is often multiplied by itself, by 2 x, or by x / ‖x‖. Seen as
  first by 2 or 1 / ‖x‖ and then by x, all of them are products with x.
  """
  shape, other = equation.outs[0].aval.shape, equation.ins[1 - place]
  whole = linear.applied(program, equation, place)
  made = program.made_by(other) if equation.name == 'mul' else None
  if made is not None and made.name in ('mul', 'div'):
    orders = made.ins, made.ins[::-1]
    for x, scale in orders if made.name == 'mul' else orders[:1]:
      if x.aval.shape != shape:
        continue
      ins = [x if i != place else y for i, y in enumerate(equation.ins)]
      rest = linear.applied(program, equation._replace(ins=ins), place)
      scalar = _scalar(program, scale)
      if made.name == 'mul' and scalar and isinstance(scalar.number, float):
        return rest._replace(constant=scalar.number)
      along = _lies_along(program, scale, shape, made.name == 'div', whole)
      if along.spreads:
        return along._replace(rest=rest)
  return _lies_along(program, other, shape, equation.name == 'div', whole)


def _lies_along(program, value, shape, divides, otherwise):
  """Find the axes that an array lies along, before it was broadcast."""
  axes = [d if size == shape[d] else None
          for d, size in enumerate(value.aval.shape)]
  while (made := program.made_by(value)) is not None:
    if made.name != 'broadcast_in_dim' or len(made.ins) != 1:
      break
    (source,), kept = made.ins, made.params['broadcast_dimensions']
    axes = [axes[d] if size == value.aval.shape[d] else None
            for d, size in zip(kept, source.aval.shape)]
    value = source
  return scaled_factors.Along(value, tuple(axes), shape, divides, otherwise)


def _factor(program, equation, place, scalar):
  """Return a scalar as a number, if it is known, or as the value it is."""
  number = scalar.number
  if number is None:
    by_value = jnp.issubdtype(scalar.aval.dtype, jnp.floating)
    return scalar if by_value else linear.applied(program, equation, place)
  return number if isinstance(number, complex) else float(number)


def _scalar(program, value):
  """Find the scalar behind broadcasts and casts; None if it is none."""
  while (made := program.made_by(value)) is not None:
    if made.name not in ('broadcast_in_dim', 'convert_element_type'
                         ) or len(made.ins) != 1:
      break
    (source,) = made.ins
    if source.aval.size != 1 or not jnp.issubdtype(
        source.aval.dtype, jnp.inexact):
      break
    value = source
  return None if value.aval.shape else value


def _terms(cutter, equation, out):
  """Cut, or follow the operand that a scalar of each example multiplies."""
  del out
  found = cutter.product_or_linear(equation)
  if found or any(x not in cutter.varying for x in equation.ins):
    return found
  for place in (0, 1):
    scalar = _scalar(cutter.program, equation.ins[1 - place])
    if scalar is not None and jnp.issubdtype(
        scalar.aval.dtype, jnp.floating):
      return [term.then(scalar)
              for term in cutter.follow(equation.ins[place])]
  return []


def _terms_of_sum(cutter, equation, out):
  """Cut at a sum of products, however many of its operands vary."""
  del out
  return cutter.product(equation) or cutter.linear(equation)


registry.register('mul', product=_product, linear=_times, terms=_terms,
                  keeps_zero=True)
registry.register('div', linear=_divided)
registry.register('reduce_sum', product=_product_of_sum,
                  linear=linear.summed, terms=_terms_of_sum,
                  keeps_zero=True)
