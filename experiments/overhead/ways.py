"""The ways to learn the squared norms of gradients that are timed.

Each makes of ``loss(params, batch)`` a step of parameters and a batch to the
mean loss, its gradient, and the squared norm of each example's gradient: or
their mean, or none, where that is all that the way gives.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gradiv import per_example


def plain(loss: Callable) -> Callable:
  """Differentiate the mean of the batch, as one does without statistics."""
  return lambda params, batch: (*jax.value_and_grad(loss)(params, batch), None)


def by_vmap(loss: Callable) -> Callable:
  """Hold the gradient of every example, and square and average them."""
  each = jax.vmap(jax.value_and_grad(loss), (None, 0))

  def step(params, batch):
    losses, grads = each(params, batch)
    sq_norms = sum(jnp.sum(g * g, axis=range(1, g.ndim))
                   for g in jax.tree.leaves(grads))
    mean = jax.tree.map(lambda g: g.mean(axis=0), grads)
    return losses.mean(), mean, sq_norms

  return step


def by_jax_privacy(loss: Callable) -> Callable:
  """Clip at infinity: what is left are the norms, and the mean gradient."""
  import jax_privacy  # Nothing else needs it.
  return _clipped_at_infinity(jax_privacy.clipped_grad, loss)


def by_clipping(loss: Callable) -> Callable:
  """Do the same with our `clipped_grad`, which takes the same arguments."""
  return _clipped_at_infinity(per_example.clipped_grad, loss)


def _clipped_at_infinity(clipped_grad, loss):
  def step(params, batch):
    grads, aux = clipped_grad(
      loss, l2_clip_norm=jnp.inf, normalize_by=float(len(batch[1])),
      keep_batch_dim=False, return_values=True, return_grad_norms=True,
    )(params, batch)
    return aux.values.mean(), grads, aux.grad_norms ** 2

  return step


def by_moments(loss: Callable) -> Callable:
  """Take the two moments; the mean of the squared norms is their sum."""
  def step(params, batch):
    value, grads, moments = per_example.example_moments(loss)(params, batch)
    return value, grads, moments.sq_norm_of_mean + moments.mean_sq_deviation

  return step


def by_sq_norms(loss: Callable) -> Callable:
  """Take each squared norm; combine the gradients with equal weights."""
  def step(params, batch):
    norms_of = per_example.example_sq_norms(loss)
    losses, sq_norms, combine = norms_of(params, batch)
    weights = jnp.full_like(losses, 1 / len(losses))
    return losses.mean(), combine(weights), sq_norms

  return step


def by_gram(loss: Callable) -> Callable:
  """Take all inner products, the squared norms on their diagonal."""
  def step(params, batch):
    losses, gram, combine = per_example.example_gram(loss)(params, batch)
    weights = jnp.full_like(losses, 1 / len(losses))
    return losses.mean(), combine(weights), jnp.diagonal(gram)

  return step


WAYS: dict[str, Callable[[Callable], Callable]] = {
  'plain': plain,
  'vmap': by_vmap,
  'jax_privacy': by_jax_privacy,
  'gradiv_clipping': by_clipping,
  'gradiv': by_moments,
  'gradiv_norms': by_sq_norms,
  'gradiv_gram': by_gram,
}
