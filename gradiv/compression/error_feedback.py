"""Error feedback: send later what a compressor leaves out now."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradiv._common import checks, layout as layouts, stateful, trees


class ErrorFeedbackState(NamedTuple):
  """State of `with_error_feedback`, different on each worker.

  Attributes:
    inner: State of the compressor.
    error: The error e, which has not been sent yet, in at least float32.
  """

  inner: Any
  error: optax.Updates


@dataclasses.dataclass(frozen=True)
class AveragingUpdate:
  """Update function of a compressor that also averages over the workers.

  Its result is common to the workers, whereas error feedback needs the part
  that this worker contributed.

  Attributes:
    with_own_part: Function of the updates and the state that returns the mean,
      the part of this worker's gradient of which it is the mean, and the new
      state.
  """

  with_own_part: Callable[
    [optax.Updates, optax.OptState],
    tuple[optax.Updates, optax.Updates, optax.OptState]]

  def __call__(
    self, updates: optax.Updates, state: optax.OptState,
    params: optax.Params | None = None, **extra_args: Any,
  ) -> tuple[optax.Updates, optax.OptState]:
    """Return the mean and the new state, as `optax` asks for."""
    del params, extra_args
    mean, _, state = self.with_own_part(updates, state)
    return mean, state


def with_error_feedback(
  compressor: optax.GradientTransformation,
  *,
  layout: layouts.Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Add to each gradient what the compressor has left out so far.

  Use it around every biased compressor. It compresses and sends p = g + e, and
  keeps e ← p − C(p). At any time the sum of the gradients equals the sum of
  everything sent, plus e, so nothing is lost, only delayed.

  Args:
    compressor: Compressor of one worker's gradient, such as `keep_top_k`, in
      front of the aggregation; or `aggregate_by_low_rank`, which aggregates as
      well. In the latter case C(p) is this worker's part of the mean.
    layout: Layout of the gradients, as the aggregation is given it; only
      `sharded_over` and `is_sharded` matter. A gradient is finite if all of
      its shards are.

  Returns:
    A transformation with an `ErrorFeedbackState`. The error differs across
    workers, so each needs a state of its own (see `replicate`). A gradient
    that is not finite is passed on, for the aggregation to count, and leaves
    the error unchanged.

  Karimireddy et al., `Error Feedback Fixes SignSGD
  <https://arxiv.org/abs/1901.09847>`_, 2019. Here the errors are those of
  gradients, not of steps: if the learning rate falls, an error is applied at
  the rate of the step that sends it.

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

  In the second step, twice the coordinate that the first left out is largest.
  """
  if layout is not None and not isinstance(layout, layouts.Layout):
    raise ValueError(f'layout={layout!r}: must be a gradiv.Layout')
  layout = layout or layouts.Layout()
  inner = checks.transformation('compressor', compressor)

  def init_fn(params):
    return ErrorFeedbackState(inner.init(params), trees.zeros_wide(params))

  def update_fn(updates, state, params=None, **extra_args):
    trees.check_floating(updates)
    total = jax.tree.map(lambda g, e: g + e, updates, state.error)
    finite = layouts.is_finite(total, layout)
    cast = lambda tree: jax.tree.map(
      lambda x, g: x.astype(g.dtype), tree, updates)
    if isinstance(inner.update, AveragingUpdate):
      # In the precision of the errors: cast only after the mean.
      sent, own, compressed = inner.update.with_own_part(total, state.inner)
      sent = cast(sent)
    else:
      sent, compressed = inner.update(
        cast(total), state.inner, params, **extra_args)
      own = sent
    error = jax.tree.map(
      lambda p, s, e: jnp.where(finite, p - s, e), total, own, state.error)
    return sent, ErrorFeedbackState(compressed, error)

  return stateful.transformation(
    init_fn, update_fn, ErrorFeedbackState, like_params=('error',))
