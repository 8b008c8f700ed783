"""Weights of examples: how many units, such as tokens, each stands for.

The loss of example i is multiplied by w_i before its gradient is taken. All
that is computed of the examples then is of the gradients w_i g_i, and

  Σ w_i g_i is their sum,    Σ w_i ‖g_i‖² the sum of ‖w_i g_i‖² / w_i.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradiv._common import checks
from gradiv.per_example import _arguments
from gradiv.per_example._engine import loss_checks


def as_counts(
  weights: Any, mask: jax.Array | None, num_examples: int
) -> tuple[jax.Array, jax.Array]:
  """Return weights in float32, and a mask of those that are not zero.

  Args:
    weights: Array [n].
    mask: Which examples count, or None for all. The weights of others may be
      anything.
    num_examples: n.

  Raises:
    ValueError: If the shape is wrong, or a known weight that counts is
      negative or not finite. Unknown ones become NaN, and so do all results.
  """
  weights = _arguments.as_weights(weights, (num_examples,)).astype(jnp.float32)
  if mask is not None:
    weights = jnp.where(mask, weights, 0)
  checks.not_negative('weights', weights)
  fits = (weights >= 0) & (weights < jnp.inf)
  weights = jnp.where(fits, weights, jnp.nan)
  return weights, weights != 0


def weigh(loss_fn: Callable, has_aux: bool) -> Callable:
  """Return (params, (example, w)) -> w · loss_fn(params, example)."""
  def weighed(params, pair):
    example, weight = pair
    result = loss_fn(params, example)
    loss, aux = loss_checks.pair(result) if has_aux else (result, ())
    loss_checks.scalar(loss, has_aux)
    loss = loss * weight.astype(jnp.result_type(loss))
    return (loss, aux) if has_aux else loss

  return weighed


def unweigh(squares: jax.Array, weights: jax.Array) -> jax.Array:
  """Compute w_i ‖g_i‖² from ‖w_i g_i‖²; zero where w_i is zero."""
  return jnp.where(
    weights == 0, 0., squares / jnp.where(weights == 0, 1., weights))
