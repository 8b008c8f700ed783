"""Sums of clipped per-example gradients, with the interface of JAX-Privacy.

What JAX-Privacy computes from per-example gradients follows here from their
norms and a weighted sum, unless an option needs the gradients themselves.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gradiv.per_example import (
  _clipping,
  _split_arguments,
  _written_out,
  example_norms,
)

Aux = _clipping.Aux


@dataclasses.dataclass(frozen=True)
class ClippedSum:
  """The function that `clipped_grad` returns, and how far one example moves it.

  Attributes:
    fun: The function.
    l2_norm_bound: The largest norm of what one example adds to the sum.
    has_aux: Whether the function returns a pair (sum, aux).
  """

  fun: Callable[..., Any]
  l2_norm_bound: float
  has_aux: bool

  def __call__(
    self, *args: Any, is_padding_example: jax.Array | None = None,
    **kwargs: Any,
  ) -> Any:
    """Compute the sum of the clipped gradients.

    Args:
      *args: The arguments of the loss; those of `batch_argnums` with an axis
        of examples in front.
      is_padding_example: Which examples count as zero, [n] of bool.
      **kwargs: Passed to the loss as they are.
    """
    return self.fun(*args, is_padding_example=is_padding_example, **kwargs)

  def sensitivity(self, neighboring_relation: Any = 'REPLACE_SPECIAL') -> float:
    """Return the L2 sensitivity of the sum.

    Args:
      neighboring_relation: A `dp_accounting.NeighboringRelation` or its name:
        ADD_OR_REMOVE_ONE, REPLACE_ONE or REPLACE_SPECIAL.
    """
    name = getattr(neighboring_relation, 'name', neighboring_relation)
    times = {'ADD_OR_REMOVE_ONE': 1, 'REPLACE_ONE': 2, 'REPLACE_SPECIAL': 1}
    if name not in times:
      raise ValueError(f'neighboring_relation={neighboring_relation!r}: must '
                       f'be one of {tuple(times)}')
    return times[name] * self.l2_norm_bound


def clipped_grad(
  fun: Callable,
  argnums: int | Sequence[int] = 0,
  has_aux: bool = False,
  *,
  l2_clip_norm: Any,
  rescale_to_unit_norm: bool = False,
  normalize_by: float = 1.0,
  batch_argnums: int | Sequence[int] = 1,
  keep_batch_dim: bool = True,
  return_values: bool = False,
  return_grad_norms: bool = False,
  pre_clipping_transform: Callable[[Any], Any] | None = None,
  microbatch_size: int | None = None,
  nan_safe: bool = True,
  dtype: jax.typing.DTypeLike | None = None,
  prng_argnum: int | None = None,
  spmd_axis_name: str | None = None,
  grid_scale: int | None = None,
) -> ClippedSum:
  """Create a function that sums the clipped gradients of the examples.

  Use it in place of `jax_privacy.clipping.clipped_grad`, whose arguments and
  results it has, so that noise, accounting and training loops stay as they
  are: Σ min(1, C/‖g_i‖) g_i, without writing the g_i out. For clipping without
  that interface, `example_sq_norms` is simpler.

  Args:
    fun: Loss of the examples that it is given, a scalar.
    argnums: The arguments to differentiate, one or several.
    has_aux: Whether `fun` returns a pair (loss, aux).
    l2_clip_norm: C; or a tree of C's, a prefix of the gradient, each of which
      clips its part by itself.
    rescale_to_unit_norm: Divide by C, so that clipped gradients have norm 1.
    normalize_by: Divide the sum by this number.
    batch_argnums: The arguments with an axis of examples in front.
    keep_batch_dim: Give `fun` an example as a batch of one; otherwise without
      the axis.
    return_values: Return the losses of the examples, [n].
    return_grad_norms: Return the norms before clipping, [n], or a tree of them
      like `l2_clip_norm`.
    pre_clipping_transform: Function of one example's gradient, applied before
      it is clipped. The gradients are then written out.
    microbatch_size: Number of examples to process at once; all by default.
    nan_safe: Leave out examples whose norm is not finite.
    dtype: Dtype of the sum; that of the gradient by default. If it is given,
      gradients are written out.
    prng_argnum: The argument that is a random key, to be split for examples.
    spmd_axis_name: As in `jax.vmap`, over gradients that are written out.
    grid_scale: Round each clipped gradient times this number over C to whole
      numbers, as int64 (for the discrete Gaussian mechanism; needs x64).
      Gradients are then written out.

  Returns:
    A `ClippedSum`, called as `fun` is, with ``is_padding_example=`` besides. It
    returns the sum; or, if anything else is asked for, the sum and an `Aux`
    of values, grad_norms and aux, each for every example or None.

  Raises:
    ValueError: If the arguments do not fit one another, or, when it is called,
      if batches differ in size.

  Balle et al., `JAX-Privacy
  <https://github.com/google-deepmind/jax_privacy>`_, 2025.

  >>> loss_fn = lambda w, x: 0.5 * jnp.mean((w - x)**2)
  >>> grad_fn = clipped_grad(loss_fn, l2_clip_norm=2., return_grad_norms=True)
  >>> total, aux = grad_fn(3., jnp.array([2., 7., 3.]))
  >>> total.item(), aux.grad_norms.tolist()  # The second is clipped to -2.
  (-1.0, [1.0, 4.0, 0.0])
  """
  several = not isinstance(argnums, int)
  which = tuple(argnums) if several else (argnums,)
  batched = ((batch_argnums,) if isinstance(batch_argnums, int)
             else tuple(batch_argnums))
  clip = _clipping.Clip(l2_clip_norm, rescale_to_unit_norm, normalize_by,
                        nan_safe, grid_scale)
  _split_arguments.check(which, batched)
  returns = has_aux or return_values or return_grad_norms
  writes_out = any(x is not None for x in (
    pre_clipping_transform, dtype, spmd_axis_name, grid_scale))

  def sum_clipped(*args, is_padding_example=None, **kwargs):
    n = _split_arguments.count([args[i] for i in batched])
    padding = _split_arguments.as_padding(is_padding_example, n)
    split = _split_arguments.Split(
      fun, which, batched, prng_argnum, keep_batch_dim, several)
    loss_fn, params, batch = split(args, kwargs, n)
    if writes_out:
      total, values, norms, aux = _written_out.clipped_sum(
        loss_fn, params, batch, padding, clip, has_aux=has_aux,
        transform=pre_clipping_transform, microbatch_size=microbatch_size,
        dtype=dtype, spmd_axis_name=spmd_axis_name)
    else:
      groups = clip.groups_of(params)
      values, squares, combine = example_norms.example_sq_norms(
        loss_fn, has_aux=has_aux, groups=groups,
        microbatch_size=microbatch_size)(params, batch)
      values, aux = values if has_aux else (values, None)
      norms = jnp.sqrt(squares)
      total = combine(clip.weights(params, norms, padding))
      norms = clip.norms_as_tree(params, norms)
    if not returns:
      return total
    if has_aux and keep_batch_dim:
      aux = jax.tree.map(_without_axis_of_one, aux)
    return total, Aux(
      values if return_values else None,
      norms if return_grad_norms else None, aux if has_aux else None)

  return ClippedSum(sum_clipped, clip.norm_bound(), returns)


def _without_axis_of_one(x):
  return x[:, 0] if x.ndim > 1 and x.shape[1] == 1 else x
