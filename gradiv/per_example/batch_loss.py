"""Per-example statistics of a loss that is written over a whole batch."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec as P

from gradiv import workers
from gradiv._common.layout import Grouping
from gradiv.per_example import (
  _arguments,
  _explicit_axes,
  _separation,
  statistics,
)
from gradiv.per_example._engine import one_example


def as_value_and_grad(
  loss_fn: Callable,
  *,
  has_aux: bool = False,
  groups: Grouping | None = None,
  axis_name: workers.AxisName | None = None,
  microbatch_size: int | None = None,
) -> Callable[..., tuple[tuple[Any, Any], Any]]:
  """Compute value and gradient of a batch loss, and the examples' `Moments`.

  Use it where a training loop calls ``jax.value_and_grad(loss_fn,
  has_aux=True)``: the `Moments` of the per-example gradients come as auxiliary
  output. The loss is a mean over its batch, as training losses usually are.
  gradiv checks, from the traced program alone, that it is the mean of losses
  of one example each; if it cannot verify that, it raises an error and never
  returns wrong numbers. Use `gradiv.example_moments` then.

  >>> import gradiv, jax.numpy as jnp
  >>> loss_fn = lambda w, x: 0.5 * jnp.mean(jnp.sum((w[None] - x)**2, 1))
  >>> w, batch = jnp.zeros(2), jnp.array([[3., 1.], [3., -1.]])
  >>> (loss, moments), grads = as_value_and_grad(loss_fn)(w, batch)
  >>> float(loss), grads.tolist()  # as from jax.value_and_grad
  (5.0, [-3.0, 0.0])
  >>> float(gradiv.batch_size_bound(gradiv.estimate(moments)))
  1.25

  Args:
    loss_fn: Function ``loss_fn(params, batch, *args)`` that returns the mean
      loss of a batch of any size.
    has_aux: Whether `loss_fn` returns a pair (loss, aux). Since aux is
      computed for batches of one example, each of its leaves gets an axis of
      examples in front.
    groups: As in `gradiv.example_moments`.
    axis_name: As in `gradiv.example_moments`.
    microbatch_size: As in `gradiv.example_moments`.

  Returns:
    A function ``(params, batch, *args) -> ((loss, moments), grads)``, or
    ``((loss, (moments, aux)), grads)`` with `has_aux`.

  Raises:
    ValueError: When the function is called, if the loss could not be verified
      to be a mean of functions of one example each: a sum, say, or a loss with
      batch statistics. The message names the operation and its source line.
  """
  _arguments.check_options(
    groups=groups, axis_name=axis_name, microbatch_size=microbatch_size)

  def value_and_grad(params, batch, *args):
    one_example.count_examples(batch)
    return _explicit_axes.run(
      of_all, lambda lie: (
        (P(), (P(), lie.rows) if has_aux else P()), lie.grads),
      params, batch, *args)

  def of_all(params, batch, *args):
    _separation.check_separate(loss_fn, params, batch, *args, has_aux=has_aux)

    def of_one(params, example, *args):
      return loss_fn(params, jax.tree.map(lambda x: x[None], example), *args)

    value, grads, moments = statistics.example_moments(
      of_one, has_aux=has_aux, groups=groups, axis_name=axis_name,
      microbatch_size=microbatch_size)(params, batch, *args)
    if has_aux:
      loss, aux = value
      return (loss, (moments, aux)), grads
    return (value, moments), grads

  return value_and_grad
