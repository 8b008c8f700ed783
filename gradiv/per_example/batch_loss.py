"""Moments for a loss that is written over a batch."""

from collections.abc import Callable
from typing import Any

import jax

from gradiv.per_example import _separation, statistics
from gradiv.per_example._engine import trace


def as_value_and_grad(
  loss_fn: Callable, *, has_aux: bool = False, **kwargs: Any
) -> Callable[..., tuple[tuple[Any, Any], Any]]:
  """Do as `jax.value_and_grad`, and return `Moments` over the examples too.

  (params, batch, *args) -> ((loss, Moments), grads), which is what
  `jax.value_and_grad` returns of a loss with Moments as auxiliary output; with
  ``has_aux`` they are ((loss, (Moments, aux)), grads).

  >>> import jax.numpy as jnp
  >>> loss = lambda w, batch: jnp.mean(jnp.square(batch @ w))
  >>> (value, m), grads = as_value_and_grad(loss)(
  ...   jnp.ones(2), jnp.array([[1., 0.], [0., 1.]]))
  >>> float(value), grads.tolist(), float(m.sq_norm_of_mean)
  (1.0, [1.0, 1.0], 2.0)

  Args:
    loss_fn: (params, batch, *args) -> the mean loss over the batch, a mean of
      functions of one example each, which are computed on batches of one.
    has_aux: Whether it returns (loss, auxiliary). What is auxiliary then comes
      from batches of one: [n, ...].
    **kwargs: Of `example_moments`.

  Raises:
    ValueError: Where that is not what the loss is: it mixes examples, as batch
      statistics do, or adds them up. And as `example_moments`.
  """
  def value_and_grad(params, batch, *args):
    trace.count_examples(batch)
    _separation.check_separate(loss_fn, params, batch, *args, has_aux=has_aux)

    def of_one(params, example):
      return loss_fn(params, jax.tree.map(lambda x: x[None], example), *args)

    value, grads, moments = statistics.example_moments(
      of_one, has_aux=has_aux, **kwargs)(params, batch)
    if has_aux:
      loss, aux = value
      return (loss, (moments, aux)), grads
    return (value, moments), grads

  return value_and_grad
