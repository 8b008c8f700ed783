"""The rule of convolutions: the gradient of a kernel, in patches."""

import math

import jax.numpy as jnp
from jax import lax

from gradiv.per_example._engine import outer_product


def conv(program, equation):
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

  return outer_product.View(
    (x, y), factor, tuple(label for d in sorted(labels) for label in labels[d]),
    (z, k, a, o), linear=1, extra=z * k * a,
    precision=params['precision'], add_up=add_up)


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
