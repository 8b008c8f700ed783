"""The bilinear equations at which a gradient is cut, one rule a primitive.

The gradient of a parameter is made by a last product: of activations and
errors, in the equation that a rule here recognises. A rule tells how to see
that equation as Σ_k u_k ⊗ v_k, and nothing else: means, norms, Gram matrices
and weighted sums follow from the two factors. To add a primitive, write a
function (program, equation) -> `View`, or None where it does not apply, and
name it in `RULES`.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp

from gradiv.per_example._engine import factors
from gradiv.per_example._engine.outer_product import View, is_zero
from gradiv.per_example._engine.primitives import convolution


def _dot(program, equation):
  """x[z, k, a] · y[z, k, b]: dense layers, einsums, attention heads."""
  del program
  x, y = equation.ins
  (x_sum, y_sum), (x_batch, y_batch) = equation.params['dimension_numbers']
  free = lambda v, *used: tuple(
    d for d in range(v.aval.ndim) if d not in sum(map(tuple, used), ()))
  x_free, y_free = free(x, x_sum, x_batch), free(y, y_sum, y_batch)
  size = lambda v, dims: math.prod(v.aval.shape[d] for d in dims)
  z, k = size(x, x_batch), size(x, x_sum)
  a, b = size(x, x_free), size(y, y_free)

  def factor(x, y):
    return (x.transpose(*x_batch, *x_sum, *x_free).reshape(z, k, a),
            y.transpose(*y_batch, *y_sum, *y_free).reshape(z, k, b))

  labels = ([('z', x.aval.shape[d]) for d in x_batch]
            + [('a', x.aval.shape[d]) for d in x_free]
            + [('b', y.aval.shape[d]) for d in y_free])
  return View((x, y), factor, tuple(labels), (z, k, a, b), linear=1,
              precision=equation.params['precision'])


def _scatter_add(program, equation):
  """One-hot rows [k, a] and updates [k, b]: embeddings."""
  del program  # What is added to is a summand of its own.
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

  def factor(index, updates):
    index = index.reshape(-1, len(rows)).astype(jnp.int32)
    top = jnp.array(heights, jnp.int32)[None]
    if clips:
      index = jnp.clip(index, 0, top - 1)
    inside = jnp.all((index >= 0) & (index < top), -1)
    strides = jnp.array(
      [math.prod(heights[i + 1:]) for i in range(len(rows))], jnp.int32)
    flat = jnp.where(inside, jnp.sum(index * strides[None], -1), -1)
    order = [d for d in range(updates.ndim)
             if d not in dims.update_window_dims]
    rest = updates.transpose(*order, *dims.update_window_dims)
    return factors.OneHot(flat[None], a), rest.reshape(1, k, b)

  labels = tuple(('a' if d in rows else 'b', s) for d, s in enumerate(shape))
  return View((index, updates), factor, labels, (1, k, a, b), linear=1,
              is_sparse=True)


def _one_slice(program, equation):
  """One row, or one matrix of several, chosen by the example: W[label]."""
  zeros, update, *index = equation.ins
  shape, small = zeros.aval.shape, update.aval.shape
  axes = [d for d in range(len(shape)) if shape[d] != small[d]]
  if not is_zero(program, zeros) or len(axes) != 1 or small[axes[0]] != 1:
    return None
  (axis,) = axes
  a, b = shape[axis], update.aval.size

  def factor(index, update):
    # Where it does not fit, the slice is moved until it does.
    index = jnp.clip(index.astype(jnp.int32), 0, a - 1).reshape(1, 1)
    return factors.OneHot(index, a), update.reshape(1, 1, b)

  labels = tuple(('a' if d == axis else 'b', s) for d, s in enumerate(shape))
  return View((index[axis], update), factor, labels, (1, 1, a, b), linear=1,
              is_sparse=True)


def _multiply(program, equation):
  """x[z, k, a] y[z, k, b] by broadcasting; a sum over axes behind it is k."""
  summed = ()
  if equation.name == 'reduce_sum':
    summed = tuple(equation.params['axes'])
    made = program.producer.get(equation.ins[0])
    equation = made and program.equations[made[0]]
    if not equation or equation.name != 'mul':
      return None
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
  sizes = {g: math.prod(shape[d] for d in axes[g]) for g in axes}

  def factor(x, y):
    def arrange(v, held, last):
      order = [held.index(d) for g in ('z', 'k', last) for d in axes[g]]
      ones = tuple(i for i, d in enumerate(held) if shape[d] == 1)
      v = v.transpose(*ones, *order)
      return v.reshape(sizes['z'], sizes['k'], sizes[last])
    return arrange(x, x_axes, 'a'), arrange(y, y_axes, 'b')

  group = {d: g for g in ('a', 'b', 'z') for d in axes[g]}
  labels = tuple((group[d], shape[d]) for d in range(len(shape)) if d in group)
  return View((x, y), factor, labels, tuple(sizes[g] for g in 'zkab'), 1)


def _unbroadcast(program, value):
  """Look through broadcasts: the value behind, and its axes in this one."""
  axes = list(range(value.aval.ndim))
  while value in program.producer:
    equation = program.equations[program.producer[value][0]]
    if equation.name != 'broadcast_in_dim' or len(equation.ins) != 1:
      break
    source = equation.ins[0]
    kept = equation.params['broadcast_dimensions']
    if any(s != value.aval.shape[d] for d, s in zip(kept, source.aval.shape)
           if s != 1):
      break
    if any(s == 1 != value.aval.shape[d]
           for d, s in zip(kept, source.aval.shape)):
      # An axis of one that is spread: seen as one that is not there.
      break
    axes = [axes[d] for d in kept]
    value = source
  return value, axes


RULES: dict[str, Callable[..., View | None]] = {
  'dot_general': _dot,
  'conv_general_dilated': convolution.conv,
  'scatter-add': _scatter_add,
  'scatter_add': _scatter_add,
  'dynamic_update_slice': _one_slice,
  'mul': _multiply,
  'reduce_sum': _multiply,
}
