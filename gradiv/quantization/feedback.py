"""Error feedback: what a compressor leaves out is sent later."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradiv import moments


class ErrorFeedbackState(NamedTuple):
  """State of `with_error_feedback`; each worker's own.

  Attributes:
    inner: State of the compressor.
    error: e, what has not been sent yet; at least float32.
  """

  inner: Any
  error: optax.Updates


def with_error_feedback(
  compressor: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """Add to each gradient what the compressor has left out so far.

  p = g + e is compressed and sent, e ← p − C(p): at any time the sum of the
  gradients is that of what was sent, plus e. So a compressor that is biased
  loses nothing, only time.

  `compressor` may be one of a single worker, such as `keep_top_k`, in front of
  the wire, or the wire itself, such as `aggregate_by_low_rank`. Either way e
  differs by worker: give each a state of its own.

  >>> import gradiv
  >>> tx = with_error_feedback(gradiv.keep_top_k(1 / 2))
  >>> step = gradiv.map_workers(lambda g, s: tx.update(g, s), 'workers')
  >>> state = gradiv.replicate(tx.init(jnp.zeros(2)), num_workers=2)
  >>> grads = jnp.array([[2., 3.], [5., 4.]])
  >>> sent, state = step(grads, state)
  >>> sent.tolist(), state.error.tolist()
  ([[0.0, 3.0], [5.0, 0.0]], [[2.0, 0.0], [0.0, 4.0]])
  >>> step(grads, state)[0].tolist()
  [[4.0, 0.0], [0.0, 8.0]]

  A gradient that is not finite is handed on, for the wire to count it, and
  leaves e as it is.

  Karimireddy et al., `Error Feedback Fixes SignSGD
  <https://arxiv.org/abs/1901.09847>`_, 2019. The errors here are those of
  gradients, not of steps: with a learning rate that falls, they are sent at
  the rate of the step that sends them.
  """
  inner = optax.with_extra_args_support(compressor)

  def init_fn(params):
    error = jax.tree.map(lambda x: jnp.zeros(
      x.shape, jnp.promote_types(x.dtype, jnp.float32)), params)
    return ErrorFeedbackState(inner.init(params), error)

  def update_fn(updates, state, params=None, **extra_args):
    total = jax.tree.map(lambda g, e: g + e, updates, state.error)
    finite = moments.is_finite(sum(
      map(moments.sq_norm, jax.tree.leaves(total)), jnp.float32(0)))
    sent, compressed = inner.update(
      jax.tree.map(lambda p, g: p.astype(g.dtype), total, updates),
      state.inner, params, **extra_args)
    error = jax.tree.map(
      lambda p, s, e: jnp.where(finite, p - s, e), total, sent, state.error)
    return sent, ErrorFeedbackState(compressed, error)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
