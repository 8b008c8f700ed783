"""The gradients that a tracker sees if the optimizer is Adam."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from gradiv._common import checks, trees
from gradiv.diversity import adam

Scalar = jax.typing.ArrayLike


def precondition_like_adam(
  decay: Scalar = 0.999, eps: Scalar = 1e-8
) -> Callable[[Any, optax.Updates], optax.Updates]:
  """Divide gradients by Adam's √v̂ + ε, as it was before this step.

  For `scale_by_diversity`, whose gain is then that of the steps which Adam
  takes. v̂ does not depend on the gradient that it divides, so the moments stay
  unbiased, in the metric of this step. Coordinates where v is zero are left
  out. Before Adam's first step the result is NaN, which the tracker skips.

  Args:
    decay: β₂ of the Adam in `inner`.
    eps: ε of the Adam in `inner`.

  Returns:
    A function that raises a ValueError, while tracing, unless the state of
    `inner` holds exactly one `optax.ScaleByAdamState`.

  >>> import jax.numpy as jnp
  >>> adam = optax.scale_by_adam()
  >>> state = adam.init(jnp.zeros(2))
  >>> _, state = adam.update(jnp.array([4., 0.]), state)
  >>> grads = precondition_like_adam()(state, jnp.array([2., 1.]))
  >>> [round(float(g), 3) for g in grads]  # 2/√4², and a zero v
  [0.5, 0.0]
  """
  checks.between('decay', decay, 0, 1)
  checks.positive('eps', eps)

  def fn(inner_state, updates):
    count = len(adam.find_states(inner_state))
    if count != 1:
      raise ValueError(
        f'inner holds {count} states of optax.scale_by_adam: must be one')
    weights = adam.adam_metric(inner_state, decay=decay, eps=eps)
    return jax.tree.map(
      lambda g, d: trees.widen(g) * d.astype(trees.wide_dtype(g.dtype)),
      updates, weights)

  return fn
