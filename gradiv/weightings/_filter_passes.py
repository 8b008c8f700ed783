"""The passes of `agreement` over the gradients, on their Gram matrix.

Each pass returns the weights, how many gradients agreed, and the distances
that were measured, NaN where there was nothing to measure.
"""

import jax
import jax.numpy as jnp
from jax import lax

from gradiv.weightings import geometry, joining, weighting


def try_anchors(gram, present, allow, combine, order, num_anchors, least):
  """Pass through the gradients with one anchor after the other.

  Returns the first pass in which at least `least` agreed, or else the first.
  """
  # Absent gradients go last, so that the first one is an anchor.
  order = order[jnp.argsort(~present[order], stable=True)]
  pass_from = lambda order: _pass(gram, present, allow, combine, order)
  if num_anchors == 1:
    return pass_from(order)
  places = jnp.arange(len(order))

  def anchored(a):
    return order[jnp.where(places == 0, a,
                           places - (places <= a).astype(places.dtype))]

  passes = jax.vmap(lambda a: pass_from(anchored(a)))(jnp.arange(num_anchors))
  first = jnp.argmax(passes[1] >= least)
  return jax.tree.map(lambda x: x[first], passes)


def _pass(gram, present, allow, combine, order):
  unit = jnp.eye(len(gram), dtype=gram.dtype)

  def join(carry, i):
    # Both are coefficients: of the reference that gradients are compared with,
    # and of the aggregate.
    reference, weights, size = carry
    # Elementwise: a matrix product may run in reduced precision.
    dots = jnp.sum(gram * reference[None, :], 1)
    distance = geometry.cosine_distance(
      dots[i], jnp.sum(reference * dots), gram[i, i])
    allowed = allow(jnp.sum(reference**2))
    # A zero gradient is no anchor, because all others would disagree with it.
    able = present[i] & (gram[i, i] > 0)
    agrees = able & ((size == 0) | (distance <= allowed))
    keep, add = joining.joining_weights(combine, size)
    joined = keep * weights + add * unit[i]
    weights = jnp.where(agrees, joined, weights)
    fixed = (combine == 'first') & (size > 0)
    reference = jnp.where(fixed, reference, weights)
    measured = jnp.where(present[i] & (size > 0), distance, jnp.nan)
    return (reference, weights, size + agrees), measured

  none = jnp.zeros_like(gram[0])
  carry = none, none, jnp.zeros_like(present[0], jnp.int32)
  (_, weights, size), distances = lax.scan(join, carry, order)
  return weights, size, distances


def leave_one_out(gram, present, allow):
  """Compare each gradient with the sum of all others."""
  squares = jnp.diagonal(gram)
  # g_i·Σ_{j≠i} g_j and ‖Σ_{j≠i} g_j‖², summed without i, because subtracting
  # its part from the sum over all would cancel.
  others = 1 - jnp.eye(len(gram), dtype=gram.dtype)
  dots = jnp.sum(others * gram, 1)
  rest = jnp.einsum('ij,jk,ik->i', others, gram, others,
                    precision=lax.Precision.HIGHEST)
  distance = geometry.cosine_distance(dots, rest, squares)
  count = jnp.maximum(present.sum() - 1, 1).astype(jnp.float32)
  agrees = present & (distance <= allow(1 / count))
  distance = jnp.where(present, distance, jnp.nan)
  return weighting.uniform(agrees), agrees.sum(), distance


def closest_pair(gram, present):
  """Weigh the two gradients with the smallest cosine distance."""
  squares = jnp.diagonal(gram)
  distance = geometry.cosine_distance(
    gram, squares[:, None], squares[None, :])
  pairs = present[:, None] & present[None, :] & ~jnp.eye(len(gram), dtype=bool)
  distance = jnp.where(pairs & jnp.isfinite(distance), distance, jnp.inf)
  i, j = jnp.unravel_index(jnp.argmin(distance), distance.shape)
  places = jnp.arange(len(gram))
  pair = (places == i) | (places == j)
  return jnp.where(jnp.isfinite(distance.min()), weighting.uniform(pair), 0)
