"""PCD: follow one gradient, and let all others make some progress."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradiv._common import checks, counting
from gradiv.weightings import _numbers, _solvers, geometry, weighting


class PCDState(NamedTuple):
  """State of `pcd`.

  Attributes:
    counts: Number of steps in which each gradient was present, [n].
    squares: Averages of ‖g_i‖², [n], which begin at zero.
  """

  counts: jax.Array
  squares: jax.Array


def pcd(
  progress: jax.typing.ArrayLike = 0.02,
  decay: jax.typing.ArrayLike = 0.999,
  eps: jax.typing.ArrayLike = 1e-8,
) -> weighting.Weighting:
  """Follow the first gradient, and let each other loss gain a little.

  Use it when one loss is what you want and the others must not suffer.

  The update is the d closest to g̃_1 with ⟨g̃_j, d⟩ ≥ τ‖g̃_j‖² for all others,
  scaled to the length of g_1; g̃_i = g_i/√(v_i + ε), with v_i the average of
  ‖g_i‖² over the steps, without bias. If no d satisfies that, as when two of
  the others oppose each other, the update is g_1.

  >>> weights = pcd(0.5)(jnp.array([[1., 0.], [0., 4.]]))
  >>> [round(w, 3) for w in weights.tolist()]
  [0.894, 0.224]

  The first, and half of the normalized second, at the length of the first.

  Args:
    progress: τ in [0, 1]: the gain of each other loss, as a fraction of that
      along its own gradient.
    decay: Fraction of the averages that stays at each step, in [0, 1).
    eps: ε, at least 0.

  Returns:
    A weighting with a `PCDState`, which needs to know n. The gradient that is
    followed is the first that is present.

  Varaminybahnemiry et al., `Not All Objectives Are Born Equal
  <https://arxiv.org/abs/2606.29521>`_, 2026, as implemented in TorchJD.
  """
  checks.within('progress', progress, 0, 1, one=True)
  checks.fraction('decay', decay, one=True)
  checks.within('eps', eps, 0, 1e30, one=True)
  progress, decay, eps = map(_numbers.as_float, (progress, decay, eps))

  def step(gram, present, state, key):
    del key
    squares = jnp.diagonal(gram)
    counts = counting.increment(state.counts, present.astype(jnp.int32))
    averages = jnp.where(
      present, decay * state.squares + (1 - decay) * squares, state.squares)
    debiased = averages / jnp.where(present, 1 - decay**counts, 1) + eps
    scale = jnp.where(present & (debiased > 0),
                      jax.lax.rsqrt(jnp.where(debiased > 0, debiased, 1)), 0)
    return (_follow(gram, present, scale, progress),
            PCDState(counts, averages))

  return weighting.Weighting(
    step, lambda n: PCDState(
      jnp.zeros(n, jnp.int32), jnp.zeros(n, jnp.float32)),
    needs_size=True)


def _follow(gram, present, scale, progress):
  """Solve for the update among normalized gradients."""
  first = jnp.arange(len(present)) == jnp.argmax(present)
  first &= present
  unit = scale[:, None] * gram * scale[None, :]
  norms, cos, alive = geometry.cosines(unit)
  others = alive & ~first
  target = first.astype(unit.dtype)
  wanted = progress * jnp.diagonal(unit)
  lacking = jnp.where(others, wanted - geometry.dot(unit, target), 0)
  # In units of the lengths; zeros beside what is not among the others.
  both = others[:, None] & others[None, :]
  h = _solvers.ridged(
    jnp.where(both, cos, jnp.eye(len(cos), dtype=cos.dtype)))
  x = _solvers.nonnegative(h, -lacking / norms) / norms
  w = target + jnp.where(others, x, 0)
  # Without a solution, the ridge alone provides the gains, by huge x.
  fails = jnp.any(others & (geometry.dot(unit, w) < wanted / 2 - 1e-5))
  w = jnp.where(fails, target, w)
  size = geometry.dot(w, jnp.sqrt(jnp.maximum(jnp.diagonal(unit), 0)))
  square = geometry.dot(w, geometry.dot(unit, w))
  some = square > 1e-6 * size**2
  length = jnp.sqrt(jnp.sum(target * jnp.diagonal(gram)))
  return jnp.where(
    some, w * scale * length / jnp.sqrt(jnp.where(some, square, 1)), 0)
