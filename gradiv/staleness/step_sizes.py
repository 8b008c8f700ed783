"""How far to step along a stale gradient: factors of the learning rate.

Each rule is a function of the staleness τ alone, which may be an array. What
they protect from begins where τ passes the critical staleness, M + σ²/ε, and
is free below.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradiv._common import checks, trees


def cap_staleness(
  staleness: jax.typing.ArrayLike, num_workers: int
) -> jax.Array:
  """Compute n / max(n, τ): full steps up to a staleness of n workers.

  >>> cap_staleness(jnp.array([0, 4, 8]), 4).tolist()
  [1.0, 1.0, 0.5]

  Mishchenko et al., `Asynchronous SGD Beats Minibatch SGD Under Arbitrary
  Delays <https://arxiv.org/abs/2206.07638>`_, 2022.
  """
  checks.count('num_workers', num_workers, 1)
  return num_workers / jnp.maximum(_as_float(staleness), num_workers)


def limit_late_steps(
  staleness: jax.typing.ArrayLike,
  concurrency: int,
  *,
  relative_step: float | None = None,
) -> jax.Array:
  """Compute 1 where τ ≤ τ_C, else min{1, 1/(4 L η τ)}, or 0.

  >>> late = jnp.array([3, 4, 8])
  >>> limit_late_steps(late, 4, relative_step=0.125).tolist()
  [1.0, 1.0, 0.25]
  >>> limit_late_steps(late, 4).tolist()
  [1.0, 1.0, 0.0]

  Koloskova et al., `Sharper Convergence Guarantees for Asynchronous SGD
  <https://arxiv.org/abs/2206.08307>`_, 2022.

  Args:
    staleness: τ.
    concurrency: τ_C, how many gradients are under way at once.
    relative_step: L η, the learning rate by that of 1/smoothness; at most 1/4
      in the theory. None drops what is late.
  """
  checks.count('concurrency', concurrency, 1)
  steps = _as_float(staleness)
  late = jnp.zeros_like(steps)
  if relative_step is not None:
    checks.positive('relative_step', relative_step)
    late = jnp.minimum(1, 1 / (4 * relative_step * jnp.maximum(steps, 1)))
  return jnp.where(steps <= concurrency, 1, late)


def divide_by_staleness(staleness: jax.typing.ArrayLike) -> jax.Array:
  """Compute 1 / max(τ, 1), which shortens steps that were not too long.

  Far below the critical staleness, τ ≪ M, a stale gradient allows for the full
  step, and this one gives away a factor of τ.

  >>> divide_by_staleness(jnp.array([0, 1, 4])).tolist()
  [1.0, 1.0, 0.25]

  Zhang et al., `Staleness-aware Async-SGD for Distributed Deep Learning
  <https://arxiv.org/abs/1511.05950>`_, 2016.
  """
  return 1 / jnp.maximum(_as_float(staleness), 1)


def ringmaster_threshold(
  noise_ratio: float, variance: float, accuracy: float
) -> int:
  """Compute R = max{1, ⌈M + σ²/ε⌉}, the staleness to stop workers at.

  The critical staleness, where the noise is of E‖ξ‖² ≤ M‖∇f‖² + σ² and the
  aim ‖∇f‖² ≤ ε. With M = 0 it is the R of Maranjyan et al., `Ringmaster ASGD
  <https://arxiv.org/abs/2501.16168>`_, 2025.

  >>> ringmaster_threshold(2., 1., 0.4)
  5

  Raises:
    ValueError: On a negative M or σ², or an ε that is not positive.
  """
  checks.at_least('noise_ratio', noise_ratio, 0)
  checks.at_least('variance', variance, 0)
  checks.positive('accuracy', accuracy)
  return max(1, math.ceil(noise_ratio + variance / accuracy))


def scale_by_staleness(
  rule: Callable[[jax.Array], jax.typing.ArrayLike],
) -> optax.GradientTransformationExtraArgs:
  """Multiply each update by a factor of its staleness.

  The staleness is an extra argument: one number, or, by leaf, a tree of them.
  A chain does not hand it from one member to the next; step by step:

  >>> import gradiv
  >>> delay = gradiv.delay_updates(4)
  >>> scale = scale_by_staleness(lambda steps: cap_staleness(steps, 2))
  >>> tx = optax.chain(scale, optax.sgd(1.))
  >>> x = jnp.zeros(())
  >>> late, rest = delay.init(x), tx.init(x)
  >>> for g in range(6):
  ...   stale, late = delay.update(jnp.float32(g), late)
  ...   update, rest = tx.update(stale, rest, x, staleness=late.staleness)
  >>> float(update)  # of a gradient of 1, by 2/max(2, 4)
  -0.5

  Args:
    rule: τ → factor, such as a lambda of one of this module's.

  Raises:
    ValueError: While tracing, where no staleness is given.
  """
  def update_fn(updates, state, params=None, *, staleness=None, **extra_args):
    del params, extra_args
    if staleness is None:
      raise ValueError('staleness=None: must be given as an extra argument')
    return scale(updates, staleness), state

  def scale(updates, staleness):
    one = lambda g, s: (trees.widen(g) * rule(jnp.asarray(s))).astype(g.dtype)
    if is_one(staleness):
      return jax.tree.map(lambda g: one(g, staleness), updates)
    return jax.tree.map(one, updates, staleness)

  return optax.GradientTransformationExtraArgs(optax.init_empty_state,
                                               update_fn)


def is_one(staleness: Any) -> bool:
  """Tell one number from a tree of them."""
  return jax.tree.structure(staleness) == jax.tree.structure(0)


def _as_float(staleness):
  return jnp.asarray(staleness, float)
