"""Convolutions: the gradient of a kernel, by patches."""

import functools
import math

import jax.numpy as jnp
from jax import lax

from gradiv.per_example._engine import linear, registry
from gradiv.per_example._engine.outer_product import OuterProduct

# Parameters of the convolution that sums over the examples as well.
_KEPT_IN_SUM = (
  'dimension_numbers', 'batch_group_count', 'window_strides', 'padding',
  'lhs_dilation', 'rhs_dilation', 'precision', 'preferred_element_type')


def _product(program, equation):
  """See patches of x times y: u [z, k, a] and v [z, k, b].

  The gradient of a kernel is itself a convolution: of the activations x by the
  errors y, with the roles of batch and features exchanged. Its output has

    batch of x                ->  a1   in a plain layer, input features
    spatial positions         ->  a2   in a plain layer, the taps of the kernel
    output features of y      ->  b    in a plain layer, output features
    groups of channels        ->  z

  and it sums over the features and positions of y, which are k. Each tap sees
  x shifted, so that u holds x once per tap: `_patches` writes them out.

  Or it sums over the positions of x, and each tap sees y shifted. That is less
  to write in a transposed layer, where x is small and spread with gaps, and
  wherever fewer features go out than come in.
  """
  del program
  params, (x, y) = equation.params, equation.ins
  if params['feature_group_count'] != 1:
    return None
  dims = params['dimension_numbers']
  x_shape = [x.aval.shape[d] for d in dims.lhs_spec]
  y_shape = [y.aval.shape[d] for d in dims.rhs_spec]
  spatial = [equation.outs[0].aval.shape[d] for d in dims.out_spec[2:]]
  z, taps = params['batch_group_count'], math.prod(spatial)
  n, o = x_shape[0] // z, y_shape[0] // z
  of_y = n * math.prod(y_shape[1:]) <= o * math.prod(x_shape[1:]) or any(
    step > 1 for step in params['rhs_dilation'])
  k = math.prod((y_shape if of_y else x_shape)[1:])
  windows = tuple(map(_window if of_y else _window_of_y, params['padding'],
                      params['lhs_dilation'], params['window_strides'],
                      params['rhs_dilation'], spatial, x_shape[2:],
                      y_shape[2:]))
  # In which order the output holds the parts of a factor with taps: its
  # features, then each position.
  features = dims.out_spec[0 if of_y else 1]
  parts = tuple(sorted(
    range(1 + len(spatial)),
    key=lambda i: dims.out_spec[i + 1] if i else features))
  labels = {dims.out_spec[0]: [('a', n)],
            dims.out_spec[1]: [('z', z), ('b', o)]}
  labels |= {d: [('a' if of_y else 'b', s)]
             for d, s in zip(dims.out_spec[2:], spatial)}
  a, b = (n * taps, o) if of_y else (n, o * taps)
  return OuterProduct(
    (x, y), functools.partial(
      _make_factors, (dims.lhs_spec, dims.rhs_spec), windows, parts, z, of_y),
    tuple(label for d in sorted(labels) for label in labels[d]),
    (z, k, a, b), scaled=1, num_extra=z * k * (a if of_y else b),
    turned='a' if of_y else 'b',
    precision=params['precision'],
    add_up=functools.partial(_add_up, tuple(
      (name, params[name]) for name in _KEPT_IN_SUM)))


def _window(padding, dilation, stride, step, taps, of_x, positions):
  """Describe what the taps see of x at each position of y.

  Returns:
    The zeros before, after and between the elements of x; and what `_unfold`
    takes.
  """
  del of_x
  return (*padding, dilation - 1), stride, step, taps, positions, False


def _window_of_y(padding, dilation, stride, step, taps, positions, of_y):
  """Describe what the taps see of y at each position q of x.

  Tap t takes x[q] to position q·dilation + low − t·stride of y: the last tap
  lies first.
  """
  del step  # one
  low = (taps - 1) * stride - padding[0]
  high = (positions - 1) * dilation + padding[0] + 1 - of_y
  return (low, high, 0), stride, dilation, taps, positions, True


def _make_factors(specs, windows, parts, z, of_y, x, y):
  x, y = (v.transpose(spec) for v, spec in zip((x, y), specs))
  flat = lambda v: v.reshape(z, len(v) // z, -1).swapaxes(1, 2)
  patches = _patches(x if of_y else y, z, windows, parts)
  return (patches, flat(y)) if of_y else (flat(x), patches)


def _patches(x, z, windows, parts):
  """Arrange x [z·n, f, space ...] as patches [z, k, a].

  With each spatial axis split into taps s and positions r:

    [z·n, f, s1, r1, s2, r2]  ->  [z, f, r1, r2, n, s1, s2]   k, then a
  """
  rank = len(windows)
  x = lax.pad(x, jnp.zeros((), x.dtype), [
    (0, 0, 0), (0, 0, 0), *(padding for padding, *_ in windows)])
  for axis, (_, *window) in zip(range(2, 2 + 2 * rank, 2), windows):
    x = _unfold(x, axis, *window)
  x = x.reshape(z, len(x) // z, *x.shape[1:])
  positions = range(4, 4 + 2 * rank, 2)
  k = math.prod(x.shape[d] for d in (2, *positions))
  at = lambda i: 2 * i + 1 if i else 1
  # The positions last: long rows are copied faster than short ones.
  return x.transpose(0, *map(at, parts), 2, *positions).reshape(
    z, -1, k).swapaxes(1, 2)


def _add_up(options, x, y):
  """Sum over examples by one plain convolution, without patches.

  The examples join the features that are summed.
  """
  options = dict(options)
  dims = options['dimension_numbers']
  x, y = (jnp.moveaxis(v, 0, d).reshape(
    *v.shape[1:d + 1], -1, *v.shape[d + 2:])
    for v, d in ((x, dims.lhs_spec[1]), (y, dims.rhs_spec[1])))
  return lax.conv_general_dilated(x, y, **options)


def _unfold(x, axis, stride, step, size, positions, turned):
  """Split an axis of x into taps s and positions r: x[s·stride + r·step].

  Args:
    x: The array.
    axis: The axis.
    stride: From one tap to the next.
    step: From one position to the next.
    size: Number of taps.
    positions: Number of positions.
    turned: Whether the last tap is to come first.
  """
  # Slice along the shorter of both axes, for fewer slices.
  short = size <= positions
  count, jump, length, gap = ((size, stride, positions, step) if short
                              else (positions, step, size, stride))
  slices = [lax.slice_in_dim(x, i * jump, i * jump + (length - 1) * gap + 1,
                             gap, axis) for i in range(count)]
  x = jnp.stack(slices, axis if short else axis + 1)
  return jnp.flip(x, axis) if turned else x


def _flops(program, index):
  equation = program.equations[index]
  dims = equation.params['dimension_numbers']
  return 2 * math.prod(equation.outs[0].aval.shape) * math.prod(
    equation.ins[1].aval.shape[d] for d in dims.rhs_spec[1:])


registry.register('conv_general_dilated', product=_product,
                  linear=linear.applied, flops=_flops)
