"""Additions at an index: the gradient of an embedding, or of w[index]."""

import functools
import math

import jax.numpy as jnp

from gradiv.per_example._engine import factors, linear, registry
from gradiv.per_example._engine.outer_product import OuterProduct


def _product(program, equation):
  """See one-hot rows u [k, a] and updates v [k, b] of whole rows.

      table.at[tokens].add(δ):  u_k = one_hot(token_k),  v_k = δ_k

  With several indexed axes, the one stands at their flattened index. An axis
  may be indexed although a whole window of it is taken, as in
  ``vmap(lambda i: w[i])(tokens)``; its index can only be 0. What is added to,
  the first operand, is left to `_terms`.
  """
  del program
  _, index, updates = equation.ins
  shape = equation.outs[0].aval.shape
  dims = equation.params['dimension_numbers']
  batching = getattr(dims, 'operand_batching_dims', ())
  indexed = tuple(dims.scatter_dims_to_operand_dims)
  windows = _windows(dims, shape, updates.aval.shape)
  rows = tuple(d for d in range(len(shape)) if d in dims.inserted_window_dims
               or windows[d] < shape[d])
  if batching or not rows or any(
      windows[d] != 1 or d not in indexed for d in rows):
    return None
  clips = str(equation.params['mode']).upper().endswith('CLIP')
  a = math.prod(shape[d] for d in rows)
  b = math.prod(s for d, s in enumerate(shape) if d not in rows)
  k = updates.aval.size // max(b, 1)
  places = tuple(shape[d] - windows[d] + 1 for d in indexed)
  strides = tuple(math.prod(shape[e] for e in rows if e > d) * (d in rows)
                  for d in indexed)
  order = [d for d in range(updates.aval.ndim)
           if d not in dims.update_window_dims]
  make_factors = functools.partial(
    _make_factors, (*order, *dims.update_window_dims), (k, a, b),
    (places, strides, clips))
  labels = tuple(('a' if d in rows else 'b', s) for d, s in enumerate(shape))
  return OuterProduct((index, updates), make_factors, labels, (1, k, a, b),
                      scaled=1, is_sparse=True)


def _make_factors(order, sizes, flattening, index, updates):
  k, a, b = sizes
  places, *_ = flattening
  flat = _flat_index(index.reshape(-1, len(places)), *flattening)
  return (factors.OneHot(flat[None], a),
          updates.transpose(order).reshape(1, k, b))


def _windows(dims, shape, updates):
  """Return how much of each axis one update covers."""
  kept = [d for d in range(len(shape)) if d not in (
    *dims.inserted_window_dims, *getattr(dims, 'operand_batching_dims', ()))]
  covered = dict(zip(kept, (updates[d] for d in dims.update_window_dims)))
  return [covered.get(d, 1) for d in range(len(shape))]


def _flat_index(index, places, strides, clips):
  """Flatten an index [k, axes]; -1 where it is out of range."""
  index = index.astype(jnp.int32)
  top = jnp.array(places, jnp.int32)[None]
  if clips:
    index = jnp.clip(index, 0, top - 1)
  inside = jnp.all((index >= 0) & (index < top), -1)
  strides = jnp.array(strides, jnp.int32)[None]
  return jnp.where(inside, jnp.sum(index * strides, -1), -1)


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
