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
  windows = tuple(zip(params['padding'], params['lhs_dilation'],
                      params['window_strides'], params['rhs_dilation'],
                      spatial, y_shape[2:]))
  # In which order the output holds the parts of a: batch, then each position.
  parts = tuple(sorted(range(1 + rank),
                       key=lambda i: dims.out_spec[i and i + 1]))
  labels = {dims.out_spec[0]: [('a', n)],
            dims.out_spec[1]: [('z', z), ('b', o)]}
  labels |= {d: [('a', s)] for d, s in zip(dims.out_spec[2:], spatial)}
  k, a = math.prod(y_shape[1:]), n * math.prod(spatial)
  return OuterProduct(
    (x, y), functools.partial(_make_factors, dims, windows, parts, (z, k, o)),
    tuple(label for d in sorted(labels) for label in labels[d]),
    (z, k, a, o), scaled=1, num_extra=z * k * a, precision=params['precision'],
    add_up=functools.partial(_add_up, tuple(
      (name, params[name]) for name in _KEPT_IN_SUM)))


def _make_factors(dims, windows, parts, sizes, x, y):
  z, k, o = sizes
  x = _patches(x.transpose(dims.lhs_spec), z, windows, parts)
  y = y.transpose(dims.rhs_spec).reshape(z, o, -1)
  return x.reshape(z, k, -1), y.swapaxes(1, 2)


def _patches(x, z, windows, parts):
  """Arrange x [z·n, f, space ...] as patches [z, *k, *a].

  With each spatial axis split into taps s and positions r:

    [z·n, f, s1, r1, s2, r2]  ->  [z, f, r1, r2, n, s1, s2]   k, then a
  """
  rank = len(windows)
  for axis, window in zip(range(2, 2 + 2 * rank, 2), windows):
    x = _unfold(x, axis, *window)
  x = x.reshape(z, len(x) // z, *x.shape[1:])
  at = lambda i: 2 * i + 1 if i else 1
  return x.transpose(0, 2, *range(4, 4 + 2 * rank, 2), *map(at, parts))


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


def _unfold(x, axis, padding, dilation, stride, step, size, positions):
  """Split an axis of x into taps s and positions r: x[s·stride + r·step]."""
  x = lax.pad(x, jnp.zeros((), x.dtype), [
    (*padding, dilation - 1) if d == axis else (0, 0, 0)
    for d in range(x.ndim)])
  # Slice along the shorter of both axes, for fewer slices.
  short = size <= positions
  count, jump, length, gap = ((size, stride, positions, step) if short
                              else (positions, step, size, stride))
  slices = [lax.slice_in_dim(x, i * jump, i * jump + (length - 1) * gap + 1,
                             gap, axis) for i in range(count)]
  return jnp.stack(slices, axis if short else axis + 1)


def _flops(program, index):
  equation = program.equations[index]
  dims = equation.params['dimension_numbers']
  return 2 * math.prod(equation.outs[0].aval.shape) * math.prod(
    equation.ins[1].aval.shape[d] for d in dims.rhs_spec[1:])


registry.register('conv_general_dilated', product=_product,
                  linear=linear.applied, flops=_flops)
