"""Nearest-neighbor mixing, a preparation for other robust rules."""

import jax.numpy as jnp

from gradiv._common import checks
from gradiv.weightings import _numbers, averaging, geometry, weighting


def nearest_neighbor_mixing(
  num_byzantine: int, then: weighting.Weighting = averaging.mean()
) -> weighting.Weighting:
  """Replace each gradient by the mean of its nearest, then apply a rule.

  Use it in front of a robust rule when workers hold different data: honest
  gradients then differ as well, and mixing draws them together.

  Row i of M averages the n − f gradients nearest to g_i, itself included. The
  rule `then` sees the Gram matrix M G Mᵀ of the mixed gradients; if it returns
  w', the weights of the gradients are Mᵀ w'. Extra rows that `then` has are
  not mixed.

  >>> from gradiv import weightings
  >>> gram = jnp.outer(jnp.array([0., 2., 99.]), jnp.array([0., 2., 99.]))
  >>> # The first two are near each other; Krum selects their mean.
  >>> nearest_neighbor_mixing(1, weightings.krum(0))(gram).tolist()
  [0.5, 0.5, 0.0]

  Args:
    num_byzantine: f, the largest number of bad gradients; less than n. While
      at most f gradients are present, no mixed gradient is.
    then: The rule for the mixed gradients; by default their mean.

  Allouah et al., `Fixing by Mixing: A Recipe for Optimal Byzantine ML under
  Heterogeneity <https://arxiv.org/abs/2302.01772>`_, 2023.
  """
  checks.count('num_byzantine', num_byzantine, 0)
  weighting.check('then', then)

  def step(gram, present, state, key):
    n = len(present)
    _numbers.check_enough(
      n, num_byzantine + 1, num_byzantine=num_byzantine)
    size = present.sum() - num_byzantine
    present &= size > 0
    squares = geometry.unit_sq_distances(gram[:n, :n])
    nearest, center = _nearest(squares, present, size)
    mix = jnp.eye(len(gram), dtype=gram.dtype).at[:n, :n].set(nearest)
    if then.of_differences:
      # Around one of the mixed gradients: those that equal it are exactly
      # zero, and do not differ by rounding, however far others are.
      kept = weighting.with_extra(present, then.num_extra)
      around = jnp.where(kept[:, None], mix - mix[center][None], 0)
    else:
      around = mix
    mixed = geometry.dot(around, geometry.dot(gram, around.T))
    # Rounding must not make a square negative.
    mixed = jnp.where(jnp.eye(len(gram), dtype=bool), abs(mixed), mixed)
    weights, state = then.step(mixed, present, state, key)
    kept = weighting.with_extra(present, then.num_extra)
    return geometry.dot(jnp.where(kept, weights, 0), mix), state

  return weighting.Weighting(
    step, then.init, of_differences=then.of_differences,
    num_extra=then.num_extra, needs_key=then.needs_key,
    needs_size=then.needs_size)


def _nearest(squares, present, size):
  """Build the rows that average the `size` nearest, first of all itself.

  Returns:
    The rows, [n, n], and the index of the gradient that lies closest to all
    of its nearest.
  """
  squares = jnp.where(jnp.eye(len(present), dtype=bool), -1, squares)
  near = geometry.ranks(
    jnp.where(present[None, :], squares, jnp.inf)) < size
  near &= present[:, None] & present[None, :]
  farthest = jnp.where(near, squares, 0).max(1)
  center = jnp.where(present, farthest, jnp.inf).argmin()
  return near / jnp.maximum(size, 1).astype(jnp.float32), center
