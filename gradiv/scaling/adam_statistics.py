"""The gradients that a tracker sees if the optimizer is Adam."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradiv._common import checks, trees

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
    is_adam = lambda x: isinstance(x, optax.ScaleByAdamState)
    found = [x for x in jax.tree.leaves(inner_state, is_leaf=is_adam)
             if is_adam(x)]
    if len(found) != 1:
      raise ValueError(f'inner holds {len(found)} states of optax.'
                       'scale_by_adam: must be one')
    adam, = found
    correction = jnp.where(
      adam.count > 0, 1 - decay ** jnp.maximum(adam.count, 1), jnp.nan)

    def divide(g, nu):
      nu = nu.astype(trees.wide_dtype(nu.dtype))
      root = jnp.sqrt(jnp.where(nu > 0, nu, 1.) / correction) + eps
      # A zero times NaN is NaN: before the first step all are.
      return trees.widen(g) * ((nu > 0) / root).astype(
        trees.wide_dtype(g.dtype))

    return jax.tree.map(divide, updates, adam.nu)

  return fn
