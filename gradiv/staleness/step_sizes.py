"""Factors for the learning rate of a stale gradient.

Each rule is a function of the staleness τ, in steps, which may be an array.
They protect training where τ exceeds the critical delay; below it, full steps
are safe.
"""

import math

import jax
import jax.numpy as jnp

from gradiv._common import checks


def cap_staleness(
  staleness: jax.typing.ArrayLike, num_workers: int
) -> jax.Array:
  """Compute n / max(n, τ): full steps up to a staleness of n workers.

  >>> cap_staleness(jnp.array([0, 4, 8]), 4).tolist()
  [1.0, 1.0, 0.5]

  *Mishchenko et al., `Asynchronous SGD Beats Minibatch SGD Under Arbitrary
  Delays <https://arxiv.org/abs/2206.07638>`_, 2022*.

  Args:
    staleness: τ, in steps.
    num_workers: n.
  """
  checks.count('num_workers', num_workers, 1)
  return num_workers / jnp.maximum(_as_float(staleness), num_workers)


def limit_late_steps(
  staleness: jax.typing.ArrayLike,
  concurrency: int,
  *,
  relative_step: jax.typing.ArrayLike | None = None,
) -> jax.Array:
  """Compute 1 for τ ≤ τ_C, and min{1, 1/(4Lητ)} or 0 for later gradients.

  >>> late = jnp.array([3, 4, 8])
  >>> limit_late_steps(late, 4, relative_step=0.125).tolist()
  [1.0, 1.0, 0.25]
  >>> limit_late_steps(late, 4).tolist()  # drops late gradients
  [1.0, 1.0, 0.0]

  *Koloskova et al., `Sharper Convergence Guarantees for Asynchronous SGD
  <https://arxiv.org/abs/2206.08307>`_, 2022*.

  Args:
    staleness: τ, in steps.
    concurrency: τ_C, the number of gradients under way at once.
    relative_step: Lη, the learning rate times the smoothness; at most 1/4 in
      the theory. None, the default, drops late gradients.
  """
  checks.count('concurrency', concurrency, 1)
  steps = _as_float(staleness)
  late = jnp.zeros_like(steps)
  if relative_step is not None:
    checks.positive('relative_step', relative_step)
    late = jnp.minimum(1, 1 / (4 * relative_step * jnp.maximum(steps, 1)))
  return jnp.where(steps <= concurrency, 1, late)


def divide_by_staleness(staleness: jax.typing.ArrayLike) -> jax.Array:
  """Compute 1 / max(τ, 1).

  Prefer another rule if τ is far below the critical delay: full steps are safe
  there, and this one gives away a factor of τ.

  >>> divide_by_staleness(jnp.array([0, 1, 4])).tolist()
  [1.0, 1.0, 0.25]

  *Zhang et al., `Staleness-aware Async-SGD for Distributed Deep Learning
  <https://arxiv.org/abs/1511.05950>`_, 2016*.

  Args:
    staleness: τ, in steps.
  """
  return 1 / jnp.maximum(_as_float(staleness), 1)


def ringmaster_threshold(
  noise_ratio: float, variance: float, accuracy: float
) -> int:
  """Compute the staleness at which to stop a worker, max{1, ⌈M + σ²/ε⌉}.

  The critical delay for noise with E‖ξ‖² ≤ M‖∇f‖² + σ² and the aim ‖∇f‖² ≤ ε.
  With M = 0 it is the threshold R of *Maranjyan et al., `Ringmaster ASGD
  <https://arxiv.org/abs/2501.16168>`_, 2025*.

  >>> ringmaster_threshold(2., 1., 0.4)
  5

  Args:
    noise_ratio: M, at least 0.
    variance: σ², at least 0.
    accuracy: ε, positive.
  """
  checks.at_least('noise_ratio', noise_ratio, 0)
  checks.at_least('variance', variance, 0)
  checks.positive('accuracy', accuracy)
  return max(1, math.ceil(noise_ratio + variance / accuracy))


def _as_float(staleness):
  return jnp.asarray(staleness, float)
