"""Error feedback: what a compressor leaves out is sent later."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradiv._common import trees


class ErrorFeedbackState(NamedTuple):
  """State of `with_error_feedback`; each worker's own.

  Attributes:
    inner: State of the compressor.
    error: e, what has not been sent yet; at least float32.
  """

  inner: Any
  error: optax.Updates


class WireCompressor(optax.GradientTransformationExtraArgs):
  """A wire that is biased, and can tell what each worker has sent on it.

  Attributes:
    update_and_share: As `update`, with three results: the common update, the
      part of this worker's gradient of which it is the mean, and the state.
  """

  def __new__(cls, init, update_and_share):
    def update(updates, state, params=None, **extra_args):
      common, _, state = update_and_share(updates, state, params, **extra_args)
      return common, state

    made = super().__new__(cls, init, update)
    made.update_and_share = update_and_share
    return made


def with_error_feedback(
  compressor: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
  """Add to each gradient what the compressor has left out so far.

  p = g + e is compressed and sent, e ← p − C(p): at any time the sum of the
  gradients is that of what was sent, plus e. So a compressor that is biased
  loses nothing, only time.

  `compressor` is one of a single worker, such as `keep_top_k`, in front of the
  wire, or `aggregate_by_low_rank`, the wire itself; there C(p) is this
  worker's part, and what holds worker by worker holds of the means. Either way
  e differs by worker: give each a state of its own.

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
    return ErrorFeedbackState(inner.init(params), trees.zeros_wide(params))

  def update_fn(updates, state, params=None, **extra_args):
    trees.check_floating(updates)
    total = jax.tree.map(lambda g, e: g + e, updates, state.error)
    finite = trees.is_usable(trees.sq_norm(total))
    cast = lambda tree: jax.tree.map(
      lambda x, g: x.astype(g.dtype), tree, updates)
    if isinstance(compressor, WireCompressor):
      # As wide as the errors: they are not to be rounded before the mean.
      sent, own, compressed = compressor.update_and_share(
        total, state.inner, params, **extra_args)
      sent = cast(sent)
    else:
      sent, compressed = inner.update(
        cast(total), state.inner, params, **extra_args)
      own = sent
    error = jax.tree.map(
      lambda p, s, e: jnp.where(finite, p - s, e), total, own, state.error)
    return sent, ErrorFeedbackState(compressed, error)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
