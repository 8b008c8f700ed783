"""Sums over examples, and the moments that follow from them."""

import jax.numpy as jnp

from gradiv._common import trees
from gradiv.diversity.moments import Moments
from gradiv.per_example import _by_group, _weights


def of_examples(trace, params, groups, scale, diagonals, batch, mask, weights):
  """Add up over the examples of one microbatch, as `add_up` expects."""
  losses, aux, data = trace.run(batch, mask)
  totals, all_squares, shared = [], [], []
  for leaf, diagonal in zip(trace.leaves, diagonals, strict=True):
    # Wide, since microbatches are added to it: bfloat16 stops at 256 of them.
    dtype = trees.wide_dtype(leaf.dtype)
    total, squares = leaf.sums(
      data, None if scale is None else scale.astype(dtype), diagonal)
    totals.append(jnp.zeros(leaf.shape, dtype) if total is None
                  else as_dtype(total, dtype))
    all_squares.append(squares)
    shared.append(leaf.shared(data))
  squares = _by_group.add_up_squares(trace, params, all_squares, groups)
  if weights is not None:
    squares = _weights.unweigh(
      squares, _by_group.of_group_and_example(weights, squares))
  losses = trees.widen(losses)
  if mask is not None:
    losses = jnp.where(mask, losses, 0)
    squares = jnp.where(
      _by_group.of_group_and_example(mask, squares), squares, 0)
  return {'grads': totals, 'squares': jnp.sum(squares, -1),
          'loss': jnp.sum(losses)}, shared, aux


def moments(trace, params, groups, total, count, units, scale, diagonals):
  """Return the `Moments` of the sums over all examples.

  The sum of the squares times `scale` is their mean: the scale is 1/n, or n
  where each gradient has been multiplied by 1/n before.
  """
  square = _by_group.sq_norms(trace, params, [
    g if d is None else g * jnp.sqrt(d)
    for g, d in zip(total['grads'], diagonals, strict=True)], groups)
  # Rounding may take it below zero if all gradients are equal.
  deviation = jnp.maximum(times(total['squares'], scale) - square, 0)
  size = jnp.float32(1) if units is count else units / jnp.maximum(count, 1)
  return Moments(
    jnp.broadcast_to(count, square.shape),
    jnp.broadcast_to(size, square.shape), square, deviation)


def as_dtype(x, dtype):
  return x if x.dtype == dtype else x.astype(dtype)


def times(x, scale):
  return x * scale.astype(x.dtype)
