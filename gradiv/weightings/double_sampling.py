"""MoDo and SDMGrad: weights on the simplex that follow MGDA step by step."""

import jax
import jax.numpy as jnp
from jax import lax

from gradiv._common import checks
from gradiv.weightings import _numbers, geometry, weighting


def modo(
  step_size: jax.typing.ArrayLike = 0.1, decay: jax.typing.ArrayLike = 0.1
) -> weighting.Weighting:
  """Move the weights by one small step toward those of `mgda`.

  Use it to train on several losses when gradients are noisy: the weights
  remember many batches, and the noise averages out.

  w ← Π(w − γ(Aw + ρw)), with Π the projection on w ≥ 0, Σ w_i = 1, beginning
  with equal weights. A is the Gram matrix. In the paper it is J₁J₂ᵀ, of the
  gradients of two independent batches, so that its diagonal has no bias; such
  a matrix may be given to ``step`` in place of the Gram matrix.

  >>> # From 1/2 and 1/2 by -γ(1/2, 2), and back to the simplex.
  >>> weights = modo(0.1, 0.)(jnp.diag(jnp.array([1., 4.])))
  >>> [round(w, 3) for w in weights.tolist()]
  [0.575, 0.425]

  Args:
    step_size: γ, positive; in units of 1/‖g‖².
    decay: ρ, at least 0; pulls toward equal weights.

  Returns:
    A weighting whose state is the last weights, [n]; it needs to know n.

  Chen et al., `Three-Way Trade-Off in Multi-Objective Learning
  <https://arxiv.org/abs/2305.20057>`_, 2023.
  """
  checks.positive('step_size', step_size, one=True)
  checks.within('decay', decay, 0, 1e30, one=True)
  step_size, decay = map(_numbers.as_float, (step_size, decay))

  def step(gram, present, weights, key):
    del key
    w = _restrict(weights, present)
    new = project_on_simplex(
      w - step_size * (geometry.dot(gram, w) + decay * w), present)
    return new, jnp.where(present, new, weights)

  return weighting.Weighting(step, _equal, needs_size=True)


def sdmgrad(
  strength: jax.typing.ArrayLike = 0.3,
  step_size: jax.typing.ArrayLike = 10.,
  momentum: jax.typing.ArrayLike = 0.5,
  num_steps: int = 20,
) -> weighting.Weighting:
  """Find a short sum near the mean, from the weights of the last step.

  Use it as `modo`, when the mean loss should decrease as well.

  (w + λ/n)/(1 + λ), where w takes `num_steps` projected steps with momentum
  down wᵀA(w/2 + λ/n) over w ≥ 0, Σ w_i = 1. A is the Gram matrix divided by
  the squared mean length; as for `modo` it may be J₁J₂ᵀ of two batches.

  >>> sdmgrad(0.)(jnp.eye(2)).tolist()
  [0.5, 0.5]

  Args:
    strength: λ, the pull toward the mean, at least 0.
    step_size: Step size of the inner descent. The default is that of the code,
      with which w jumps between corners; with 1 it converges.
    momentum: Momentum of the inner descent, in [0, 1).
    num_steps: Number of inner steps.

  Returns:
    A weighting whose state is the last w, [n]; it needs to know n.

  Xiao et al., `Direction-oriented Multi-objective Learning
  <https://arxiv.org/abs/2305.18409>`_, 2023; defaults of its code.
  """
  checks.within('strength', strength, 0, 1e30, one=True)
  checks.positive('step_size', step_size, one=True)
  checks.fraction('momentum', momentum, one=True)
  checks.count('num_steps', num_steps, 1)
  strength, step_size, momentum = map(
    _numbers.as_float, (strength, step_size, momentum))

  def step(gram, present, weights, key):
    del key
    mean = weighting.uniform(present)
    largest = geometry.largest_square(gram)
    gram = gram / largest
    length = jnp.sum(
      mean * jnp.sqrt(jnp.maximum(jnp.diagonal(gram), 0)))
    a = gram / jnp.where(length > 0, length, 1)**2

    def descend(_, carry):
      w, velocity = carry
      velocity = momentum * velocity + geometry.dot(a, w + strength * mean)
      return project_on_simplex(w - step_size * velocity, present), velocity

    start = _restrict(weights, present) + 0 * gram[0]
    w, _ = lax.fori_loop(0, num_steps, descend, (start, 0 * start))
    blend = (w + strength * mean) / (1 + strength)
    return blend, jnp.where(present, w, weights)

  return weighting.Weighting(step, _equal, needs_size=True)


def project_on_simplex(values: jax.Array, present: jax.Array) -> jax.Array:
  """Find the nearest w ≥ 0 with Σ w_i = 1, zero where absent.

  >>> project_on_simplex(jnp.array([.9, .5, .4]), jnp.array([1, 1, 0]) > 0)
  Array([0.7, 0.3, 0. ], dtype=float32)
  """
  top = jnp.max(jnp.where(present, values, -jnp.inf))
  top = jnp.where(jnp.any(present), top, 0)
  # Two below the largest, a value is zero in the projection.
  values = jnp.where(present, jnp.maximum(values - top, -2), -2)
  descending = -jnp.sort(-values)
  counts = jnp.arange(1, len(values) + 1)
  levels = (jnp.cumsum(descending) - 1) / counts
  level = levels[jnp.sum(descending > levels) - 1]
  return jnp.where(present, jnp.maximum(values - level, 0), 0)


def _restrict(weights, present):
  """Divide the weights by their sum over the gradients that are present."""
  kept = jnp.where(present, weights, 0)
  total = jnp.sum(kept)
  return jnp.where(total > 0, kept / jnp.where(total > 0, total, 1),
                   weighting.uniform(present))


def _equal(num_gradients):
  return jnp.full(num_gradients, 1 / num_gradients, jnp.float32)
