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
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from gradiv.examples import factors
from gradiv.examples import programs

# Zero where what they are given is.
_PASSES = frozenset({
  'broadcast_in_dim', 'convert_element_type', 'reshape', 'neg', 'squeeze',
  'transpose', 'pvary', 'pcast', 'reduce_sum'})


class View(NamedTuple):
  """An equation's out as blocks z of Σ_k u_k ⊗ v_k, of shape [z, a, b].

  Attributes:
    operands: The values that it is made of.
    factor: Operands of one example -> (u [z, k, a], v [z, k, b]).
    labels: What the axes of the out are made of, in order: ('z' | 'a' | 'b',
      size). An axis may be made of several, the first the slowest.
    sizes: (z, k, a, b).
    linear: Which operand to multiply to scale the product.
    extra: How many elements the factors hold beyond the operands.
    is_sparse: Whether the rows of a factor are `OneHot`.
    add_up: Operands with the examples in front -> the sum of their products,
      in the shape of the out, where there is a better way than by factors.
  """

  operands: tuple[programs.Value, ...]
  factor: Callable[..., tuple[factors.Factor, factors.Factor]]
  labels: tuple[tuple[str, int], ...]
  sizes: tuple[int, int, int, int]
  linear: int
  extra: int = 0
  is_sparse: bool = False
  add_up: Callable[..., Any] | None = None


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
  return View((x, y), factor, tuple(labels), (z, k, a, b), linear=1)


def _conv(program, equation):
  """Patches [k, a] of the one, [k, b] of the other: kernels' gradients.

  The spatial positions of the right operand, and the features that are summed,
  are k; for each group of channels a block.
  """
  del program
  params, (x, y) = equation.params, equation.ins
  if params['feature_group_count'] != 1:
    return None
  dims = params['dimension_numbers']
  x_shape = [x.aval.shape[d] for d in dims.lhs_spec]
  y_shape = [y.aval.shape[d] for d in dims.rhs_spec]
  spatial = [equation.outs[0].aval.shape[d] for d in dims.out_spec[2:]]
  z, rank = params['batch_group_count'], len(spatial)
  n, o = x_shape[0] // z, y_shape[0] // z
  windows = list(zip(params['padding'], params['lhs_dilation'],
                     params['window_strides'], params['rhs_dilation'],
                     spatial, y_shape[2:]))
  # The order in the out, of a's parts: the batch of x, then its positions.
  parts = sorted(range(1 + rank), key=lambda i: dims.out_spec[i and i + 1])

  def factor(x, y):
    x = x.transpose(dims.lhs_spec)
    for axis, window in zip(range(2, 2 + 2 * rank, 2), windows):
      x = _unfold(x, axis, *window)
    # [z, n, f, s1, r1, s2, r2 ...] -> [z, (f, r1, r2 ...), parts of a]
    x = x.reshape(z, n, *x.shape[1:])
    at = lambda i: 2 * i + 1 if i else 1
    x = x.transpose(0, 2, *range(4, 4 + 2 * rank, 2), *map(at, parts))
    y = y.transpose(dims.rhs_spec).reshape(z, o, -1)
    k = y.shape[-1]
    return x.reshape(z, k, -1), y.swapaxes(1, 2)

  labels = {dims.out_spec[0]: [('a', n)],
            dims.out_spec[1]: [('z', z), ('b', o)]}
  labels |= {d: [('a', s)] for d, s in zip(dims.out_spec[2:], spatial)}
  k, a = math.prod(y_shape[1:]), n * math.prod(spatial)

  def add_up(x, y):
    # The examples join the features that are summed: one plain convolution.
    x, y = (jnp.moveaxis(v, 0, d).reshape(
      *v.shape[1:d + 1], -1, *v.shape[d + 2:])
      for v, d in ((x, dims.lhs_spec[1]), (y, dims.rhs_spec[1])))
    return lax.conv_general_dilated(
      x, y, dimension_numbers=dims, batch_group_count=z,
      **{name: params[name] for name in (
        'window_strides', 'padding', 'lhs_dilation', 'rhs_dilation',
        'precision', 'preferred_element_type')})

  return View((x, y), factor,
              tuple(label for d in sorted(labels) for label in labels[d]),
              (z, k, a, o), linear=1, extra=z * k * a, add_up=add_up)


def _unfold(x, axis, padding, dilation, stride, step, size, positions):
  """Take x[..., s·stride + r·step, ...] apart into axes s and r."""
  x = lax.pad(x, jnp.zeros((), x.dtype), [
    (*padding, dilation - 1) if d == axis else (0, 0, 0)
    for d in range(x.ndim)])
  # As few slices as there are of the shorter axis.
  short = size <= positions
  count, jump, length, gap = ((size, stride, positions, step) if short
                              else (positions, step, size, stride))
  slices = [lax.slice_in_dim(x, i * jump, i * jump + (length - 1) * gap + 1,
                             gap, axis) for i in range(count)]
  return jnp.stack(slices, axis if short else axis + 1)


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


def part_of(
  view: View, shape: tuple[int, ...], axis: int, low: int, high: int
) -> View | None:
  """See a slice of the out as a product, of slices of the factors.

  >>> import types
  >>> x, y = (programs.Value(jnp.ones((3, s))) for s in (4, 6))
  >>> dot = types.SimpleNamespace(ins=[x, y], params={
  ...   'dimension_numbers': (((0,), (0,)), ((), ()))})
  >>> part_of(_dot(None, dot), (4, 6), 1, 2, 5).sizes
  (1, 3, 4, 3)
  """
  labels = [g for g, _ in view.labels]
  if tuple(s for _, s in view.labels) != shape or labels[axis] == 'z' or (
      view.is_sparse):
    return None
  group = labels[axis]
  mine = [d for d in range(len(shape)) if labels[d] == group]
  sizes = [shape[d] for d in mine]
  place = mine.index(axis)
  z, k, a, b = view.sizes
  count = math.prod(sizes) // shape[axis] * (high - low)

  def factor(*operands):
    u, v = view.factor(*operands)
    whole = u if group == 'a' else v
    cut = lax.slice_in_dim(whole.reshape(z, k, *sizes), low, high, 1, place + 2)
    cut = cut.reshape(z, k, count)
    return (cut, v) if group == 'a' else (u, cut)

  new = tuple((g, high - low if d == axis else s)
              for d, (g, s) in enumerate(view.labels))
  sizes_now = (z, k, count, b) if group == 'a' else (z, k, a, count)
  return view._replace(factor=factor, labels=new, sizes=sizes_now, add_up=None)


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


def is_zero(program: programs.Program, value: programs.Value) -> bool:
  """Tell whether a value is known to be zero everywhere."""
  if value not in program.zeros:
    program.zeros[value] = _is_zero(program, value)
  return program.zeros[value]


def _is_zero(program, value):
  if value.constant is not None:
    return jnp.ndim(value.constant) == 0 and value.constant == 0
  if value not in program.producer:
    return False
  equation = program.equations[program.producer[value][0]]
  if equation.name in ('mul', 'dot_general'):
    return any(is_zero(program, x) for x in equation.ins)
  return equation.name in _PASSES and is_zero(program, equation.ins[0])


RULES: dict[str, Callable[..., View | None]] = {
  'dot_general': _dot,
  'conv_general_dilated': _conv,
  'scatter-add': _scatter_add,
  'scatter_add': _scatter_add,
  'dynamic_update_slice': _one_slice,
  'mul': _multiply,
  'reduce_sum': _multiply,
}
