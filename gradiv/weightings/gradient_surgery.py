"""PCGrad and GradVac: correct gradients against each other, pair by pair.

Two gradients conflict if their inner product is negative. For each gradient i
both rules visit all others in random order, and add a multiple of g_j to what
they have made of g_i.
"""

import functools

import jax
import jax.numpy as jnp

from gradiv._common import checks
from gradiv.weightings import _numbers, geometry, weighting

# A target cosine of one would ask for an infinite correction; see `gradvac`.
_MAX_COSINE = 1 - 1e-5


def pcgrad(*, reduction: str = 'sum') -> weighting.Weighting:
  """Remove from each gradient its components that conflict with the others.

  Use it to train on several losses with conflicting gradients, at little cost.
  `upgrad` costs more and guarantees that the update conflicts with none.

  For each i, starting at p = g_i, over all j ≠ i in random order:
  p ← p − min(0, ⟨p, g_j⟩) g_j/‖g_j‖². The update is the sum of all p. Without
  conflicts all weights are one.

  >>> gram = jnp.array([[1., -1.], [-1., 2.]])
  >>> # g_1 + g_2/2 and g_2 + g_1, each orthogonal to the other gradient.
  >>> pcgrad()(gram, key=jax.random.key(0)).tolist()
  [2.0, 1.5]

  Args:
    reduction: 'sum' of the projected gradients, as in the paper and in
      TorchJD, or their 'mean'.

  Returns:
    A weighting that needs a key. The order for i depends only on the key, i
    and the other indices, so absent gradients change nothing for the rest.

  Yu et al., `Gradient Surgery for Multi-Task Learning
  <https://arxiv.org/abs/2001.06782>`_, 2020.
  """
  checks.choice('reduction', reduction, ('sum', 'mean'))

  def step(gram, present, state, key):
    gram = geometry.normalized(gram)
    orders = _orders(key, len(gram))
    coefficients = jax.vmap(functools.partial(_project, gram))(
      jnp.eye(len(gram), dtype=gram.dtype), orders)
    return _reduce(coefficients, present, reduction), state

  return weighting.Weighting(step, needs_key=True)


def gradvac(
  *, decay: jax.typing.ArrayLike = 0.5, reduction: str = 'sum'
) -> weighting.Weighting:
  """Raise each gradient's cosines with the others to their running averages.

  Use it in place of `pcgrad` if gradients usually agree, as for related tasks:
  it also corrects pairs that agree less than usual.

  For each i, starting at p = g_i, over all j ≠ i in random order, with
  φ = cos(p, g_j): if φ is below its target φ̂_ij,
  p ← p + ‖p‖ (φ̂ √(1 − φ²) − φ √(1 − φ̂²)) / (‖g_j‖ √(1 − φ̂²)) g_j,
  which makes them equal. Then φ̂_ij ← decay φ̂_ij + (1 − decay) φ. The update
  is the sum of all p.

  >>> gram = jnp.array([[1., -1.], [-1., 2.]])
  >>> # All targets begin at zero, so the first step is that of `pcgrad`.
  >>> gradvac()(gram, key=jax.random.key(0)).tolist()
  [2.0, 1.5]

  Args:
    decay: Fraction of a target that stays at each step, in [0, 1].
    reduction: 'sum' of the corrected gradients, or their 'mean'.

  Returns:
    A weighting that needs a key and n. Its state holds the targets φ̂, [n, n].

  The cosine with a zero gradient is zero, and pairs with an absent one keep
  their target. Targets above 1 − 1e-5 count as that, because the correction
  grows as 1/√(1 − φ̂²); TorchJD adds 1e-8 to the denominators instead. TorchJD's
  `beta` is 1 − decay, with the same default.

  Wang et al., `Gradient Vaccine: Investigating and Improving Multi-task
  Optimization in Massively Multilingual Models
  <https://arxiv.org/abs/2010.05874>`_, 2020.
  """
  checks.choice('reduction', reduction, ('sum', 'mean'))
  checks.within('decay', decay, 0, 1, one=True)
  decay = _numbers.as_float(decay)

  def step(gram, present, targets, key):
    gram = geometry.normalized(gram)
    orders = _orders(key, len(gram))
    coefficients, new = jax.vmap(functools.partial(_vaccinate, gram, decay))(
      jnp.eye(len(gram), dtype=gram.dtype), orders, targets)
    both = present[:, None] & present[None, :]
    return (_reduce(coefficients, present, reduction),
            jnp.where(both, new, targets))

  return weighting.Weighting(
    step, lambda n: jnp.zeros((n, n), jnp.float32), needs_key=True,
    needs_size=True)


def _project(gram, row, order):
  """Compute PCGrad's coefficients for one gradient, the unit vector `row`."""
  def visit(k, c):
    j = order[k]
    product, square = geometry.dot(gram[j], c), gram[j, j]
    conflict = (product < 0) & (square > 0) & (row[j] == 0)
    return c.at[j].add(jnp.where(
      conflict, -product / jnp.where(square > 0, square, 1), 0))

  # With a zero from the Gram matrix, to vary over the axes that it does.
  return jax.lax.fori_loop(0, len(gram), visit, row + 0 * gram[0])


def _vaccinate(gram, decay, row, order, targets):
  """Compute GradVac's coefficients and the next targets for one gradient."""
  def visit(k, state):
    c, targets = state
    j = order[k]
    length, phi = _length_and_cosine(gram, c, j)
    target = jnp.minimum(targets[j], _MAX_COSINE)
    add = length * (target * _sine(phi) / _sine(target) - phi)
    square = gram[j, j]
    add = jnp.where((phi < target) & (row[j] == 0) & (square > 0),
                    add / jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    new = jnp.where(row[j] == 0, decay * targets[j] + (1 - decay) * phi, 0)
    return c.at[j].add(add), targets.at[j].set(new)

  zero = 0 * gram[0]
  return jax.lax.fori_loop(
    0, len(gram), visit, (row + zero, targets + zero))


def _length_and_cosine(gram, c, j):
  """Return ‖p‖ of p = Σ c_k g_k, and cos(p, g_j), or 0 if one is zero."""
  along = geometry.dot(gram, c)
  length = jnp.sqrt(jnp.maximum(geometry.dot(c, along), 0))
  both = length * jnp.sqrt(gram[j, j])
  cosine = jnp.where(both > 0, along[j] / jnp.where(both > 0, both, 1), 0)
  return length, jnp.clip(cosine, -1, 1)


def _sine(cosine):
  return jnp.sqrt((1 - cosine) * (1 + cosine))


def _orders(key, n):
  """Draw for each i an order of all j, by numbers that depend on (key, i, j).

  An order does not depend on n otherwise: without an absent gradient, the
  others keep their order.
  """
  def number(i, j):
    return jax.random.uniform(
      jax.random.fold_in(jax.random.fold_in(key, i), j))

  index = jnp.arange(n)
  numbers = jax.vmap(lambda i: jax.vmap(lambda j: number(i, j))(index))(index)
  return jnp.argsort(numbers, axis=1)


def _reduce(coefficients, present, reduction):
  weights = jnp.sum(jnp.where(present[:, None], coefficients, 0), 0)
  if reduction == 'mean':
    weights /= jnp.maximum(jnp.sum(present), 1)
  return weights
