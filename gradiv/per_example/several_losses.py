"""Inner products of the gradients of several losses of one batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradiv._common.layout import Grouping
from gradiv.per_example import example_grams


def loss_gram(
  losses_fn: Callable,
  *,
  has_aux: bool = False,
  groups: Grouping | None = None,
) -> Callable[..., tuple[Any, jax.Array, Callable]]:
  """Create a function that computes ⟨g_i, g_j⟩ for the gradients of T losses.

  Use it to train on several losses (tasks, terms of a loss, constraints) with
  a rule of `gradiv.weightings`. The forward pass runs once, and the backward
  passes of all losses side by side. As for the examples of a batch, gradients
  are written out only where that is cheapest, and ``combine(weights)``
  computes Σ w_i g_i from what the passes have left.

  >>> from gradiv import weightings
  >>> def losses_fn(w, x):  # Two losses that pull apart.
  ...   return jnp.stack([jnp.sum((w - x)**2), jnp.sum((w + x)**2)]) / 2
  >>> w, x = jnp.array([0., 1.]), jnp.array([2., 0.])
  >>> losses, gram, combine = loss_gram(losses_fn)(w, x)
  >>> print(gram)
  [[ 5. -3.]
   [-3.  5.]]
  >>> print(combine(weightings.mgda()(gram)).round(3))
  [0. 1.]

  The conflict cancels, and the update decreases both losses alike.

  Args:
    losses_fn: Function ``losses_fn(params, *args)`` that returns the losses: an
      array [T], or a tree of scalars, which are stacked in the order of its
      leaves.
    has_aux: Whether `losses_fn` returns a pair (losses, aux).
    groups: Function from a leaf's path to the name of its group, such as
      `gradiv.by_layer`, to get one matrix per group.

  Returns:
    A function ``(params, *args) -> (losses, gram, combine)`` with losses [T]
    and gram [T, T] in float32, or [groups, T, T] with `groups`. With
    `has_aux`, the first result is (losses, aux). `combine` is as in
    `example_gram`.

  Raises:
    ValueError: While tracing, if the losses are not real scalars.
  """
  def gram_fn(params, *args):
    shapes = jax.eval_shape(lambda *args: _pair(losses_fn, has_aux, *args)[0],
                            params, *args)

    def one_loss(params, index):
      losses, aux = _pair(losses_fn, has_aux, params, *args)
      return losses[index], aux

    (losses, aux), gram, combine = example_grams.example_gram(
      one_loss, has_aux=True, groups=groups)(
        params, jnp.arange(shapes.shape[0]))
    if has_aux:
      # All losses have the same.
      return (losses, jax.tree.map(lambda x: x[0], aux)), gram, combine
    return losses, gram, combine

  return gram_fn


def _pair(losses_fn, has_aux, *args):
  """Return the losses, [T], and the auxiliary output."""
  losses, aux = losses_fn(*args) if has_aux else (losses_fn(*args), ())
  shapes = jax.tree.map(jnp.shape, losses)
  leaves = [jnp.asarray(x) for x in jax.tree.leaves(losses)]
  if len(leaves) == 1 and leaves[0].ndim == 1 and leaves[0].size:
    return leaves[0], aux
  if not leaves or any(x.ndim for x in leaves):
    raise ValueError(f'losses_fn returned losses of shapes {shapes}: must be '
                     'an array [T] or a tree of scalars')
  return jnp.stack(leaves), aux
