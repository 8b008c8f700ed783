"""Additions at an index: the gradient of an embedding, or of w[index]."""

import math

import jax.numpy as jnp

from gradiv.per_example._engine import factors, linear, registry
from gradiv.per_example._engine.outer_product import OuterProduct


def _product(program, equation):
  """See one-hot rows u [k, a] and updates v [k, b] of whole rows.

      table.at[tokens].add(δ):  u_k = one_hot(token_k),  v_k = δ_k

  With several indexed axes, the one stands at their flattened index. What is
  added to, the first operand, is left to `_terms`.
  """
  del program
  _, index, updates = equation.ins
  shape = equation.outs[0].aval.shape
  dims = equation.params['dimension_numbers']
  rows = tuple(dims.inserted_window_dims)
  batching = getattr(dims, 'operand_batching_dims', ())
  whole = tuple(s for d, s in enumerate(shape) if d not in rows)
  window = tuple(updates.aval.shape[d] for d in dims.update_window_dims)
  if batching or window != whole or not rows or (
      tuple(dims.scatter_dims_to_operand_dims) != rows):
    return None
  heights = [shape[d] for d in rows]
  clips = str(equation.params['mode']).upper().endswith('CLIP')
  a, b = math.prod(heights), math.prod(whole)
  k = updates.aval.size // max(b, 1)

  def make_factors(index, updates):
    flat = _flat_index(index.reshape(-1, len(rows)), heights, clips)
    order = [d for d in range(updates.ndim)
             if d not in dims.update_window_dims]
    rest = updates.transpose(*order, *dims.update_window_dims)
    return factors.OneHot(flat[None], a), rest.reshape(1, k, b)

  labels = tuple(('a' if d in rows else 'b', s) for d, s in enumerate(shape))
  return OuterProduct((index, updates), make_factors, labels, (1, k, a, b),
                      scaled=1, is_sparse=True)


def _flat_index(index, heights, clips):
  """Flatten an index [k, axes]; -1 where it is out of range."""
  index = index.astype(jnp.int32)
  top = jnp.array(heights, jnp.int32)[None]
  if clips:
    index = jnp.clip(index, 0, top - 1)
  inside = jnp.all((index >= 0) & (index < top), -1)
  strides = jnp.array(
    [math.prod(heights[i + 1:]) for i in range(len(heights))], jnp.int32)
  return jnp.where(inside, jnp.sum(index * strides[None], -1), -1)


def _linear(program, equation, place):
  """Adding to zeros, at an index common to the examples, is linear."""
  if place == 2 and program.is_zero(equation.ins[0]):
    return linear.applied(program, equation, place)
  return None


def _terms(cutter, equation, out):
  """Return the terms of the updates and of what they are added to."""
  del out
  found = cutter.linear(equation) or cutter.product(equation)
  return found and found + cutter.follow(equation.ins[0])


# jax 0.7 to 0.12 write it with a hyphen.
registry.register('scatter-add', 'scatter_add', product=_product,
                  linear=_linear, terms=_terms)
