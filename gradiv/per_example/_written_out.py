"""Clip gradients of examples that are written out, where nothing else does.

A function of one example's gradient, or rounding to a grid, needs the gradient
itself. One microbatch of them is held at a time.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv.per_example import _arguments, _clipping, _microbatches


def clipped_sum(
  loss_fn: Callable, params: Any, batch: Any, padding: jax.Array,
  clip: _clipping.Clip, *, has_aux: bool, transform: Callable | None,
  microbatch_size: int | None, dtype: Any, spmd_axis_name: str | None,
) -> tuple[Any, jax.Array, Any, Any]:
  """Sum clipped gradients, one microbatch at a time.

  Args:
    loss_fn: Function (params, example) -> loss or, with `has_aux`, a pair.
    params: The parameters.
    batch: The examples.
    padding: Which of them count as zero, [n].
    clip: How to clip.
    has_aux: Whether `loss_fn` returns (loss, aux).
    transform: Function of one example's gradient, or None.
    microbatch_size: Number of examples at once, or None for all.
    dtype: Dtype of the sum, or None for that of the gradients.
    spmd_axis_name: As in `jax.vmap`.

  Returns:
    The sum; losses [n], norms, a tree of [n] each; and aux of the examples.
  """
  size = _arguments.as_size(microbatch_size, len(padding))
  with_aux = loss_fn if has_aux else (
    lambda params, example: (loss_fn(params, example), None))
  if clip.grid_scale is not None and not jax.config.read('jax_enable_x64'):
    raise ValueError(f'grid_scale={clip.grid_scale}: needs jax_enable_x64')

  def one(example, is_padding):
    (value, aux), grad = jax.value_and_grad(with_aux, has_aux=True)(
      params, example)
    norms = _norms(clip, grad)
    grad = grad if transform is None else transform(grad)
    clipped = _clipped(clip, grad, is_padding)
    if dtype is not None and clip.grid_scale is None:
      clipped = optax.tree.cast(clipped, dtype)
    return clipped, value, norms, aux

  def sum_some(total, chunk):
    clipped, *others = jax.vmap(one, spmd_axis_name=spmd_axis_name)(*chunk)
    add = lambda so_far, x: so_far + x.sum(0, dtype=x.dtype)
    return jax.tree.map(add, total, clipped), others

  shape, *_ = jax.eval_shape(
    one, *jax.tree.map(lambda x: x[0], (batch, padding)))
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)
  if size == len(padding):
    total, others = sum_some(zeros, (batch, padding))
  else:
    total, others = lax.scan(
      sum_some, zeros, _microbatches.cut((batch, padding), size))
    others = _microbatches.joined(others, (batch, padding), size)
  if clip.normalize_by != 1:
    total = jax.tree.map(lambda x: x / clip.normalize_by, total)
  return total, *others


def _norms(clip, grad):
  norm = lambda c, part: optax.tree.norm(part).astype(jnp.float32)
  return jax.tree.map(norm, clip.norm, grad)


def _clipped(clip, grad, is_padding):
  """Clip one example's gradient, or return zeros if it does not count."""
  norms = _norms(clip, grad)
  limits, steps = clip.norm, None
  if clip.grid_scale is not None:
    limits, steps = _limit_before_rounding(clip, grad)
  skip = clip.skip(jnp.stack(jax.tree.leaves(norms))[:, None],
                   is_padding[None])[0]

  def scaled(limit, norm, part):
    scale = clip.scale(norm, limit)
    return jax.tree.map(
      lambda g: jnp.where(skip, 0, (g.astype(jnp.float32) if g.dtype.itemsize
                                    < 4 else g) * scale).astype(g.dtype), part)

  clipped = jax.tree.map(scaled, limits, norms, grad)
  if steps is None:
    return clipped
  return jax.tree.map(lambda g: jnp.round(g * steps).astype(jnp.int64), clipped)


def _limit_before_rounding(clip, grad):
  """Return the norm that rounding can raise to C, and whole steps per unit."""
  steps = clip.grid_scale / clip.norm
  limit = clip.norm - optax.tree.size(grad)**.5 / steps / 2
  if limit <= 0:
    raise ValueError(
      f'grid_scale={clip.grid_scale}: too small for {optax.tree.size(grad)} '
      'parameters, as rounding moves them by more than l2_clip_norm')
  return limit, steps
