"""Rules that project gradients out of conflict, and the vaccine.

Two gradients conflict where their inner product is negative. PCGrad and
GradVac correct each gradient against the others one by one, in random order;
UPGrad and DualProj project onto the cone of all vectors that conflict with
none.
"""

import functools

import jax
import jax.numpy as jnp

from gradiv._common import checks
from gradiv.weightings import core, quadratic

# A target of one would ask for an infinite correction; see `gradvac`.
_MAX_COSINE = 1 - 1e-5


def pcgrad(*, reduction: str = 'sum') -> core.Weighting:
  """Take out of each gradient its components against the others.

  For each i, starting at p = g_i, over all j ≠ i in random order:
  p ← p − min(0, ⟨p, g_j⟩) g_j/‖g_j‖². The update is the sum of all p.

  Each i draws an order of its own, from one number for each pair (i, j) that
  depends on the key, i and j alone: gradients that are absent change nothing
  for the others. Without conflicts the weights are all one. The paper adds
  the p, as TorchJD does; others take their mean.

  >>> gram = jnp.array([[1., -1.], [-1., 2.]])
  >>> pcgrad()(gram, key=jax.random.key(0)).tolist()
  [2.0, 1.5]

  Args:
    reduction: 'sum' of the projected gradients, or their 'mean'.

  Raises:
    ValueError: Where `reduction` is neither.

  Yu et al., `Gradient Surgery for Multi-Task Learning
  <https://arxiv.org/abs/2001.06782>`_, 2020.
  """
  checks.choice('reduction', reduction, ('sum', 'mean'))

  def step(gram, present, state, key):
    gram = quadratic.normalised(gram)
    orders = _orders(key, len(gram))
    coefficients = jax.vmap(functools.partial(_project, gram))(
      jnp.eye(len(gram), dtype=gram.dtype), orders)
    return _reduced(coefficients, present, reduction), state

  return core.Weighting(step, needs_key=True)


def gradvac(
  *, decay: float = 0.5, reduction: str = 'sum'
) -> core.Weighting:
  """Pull each gradient's cosines with the others up to their average.

  For each i, starting at p = g_i, over all j ≠ i in random order, with
  φ = cos(p, g_j): where φ is below its target φ̂_ij,
  p ← p + ‖p‖ (φ̂ √(1 − φ²) − φ √(1 − φ̂²)) / (‖g_j‖ √(1 − φ̂²)) g_j,
  which makes it equal; then φ̂_ij ← decay φ̂_ij + (1 − decay) φ. The update is
  the sum of all p. The state is φ̂ [n, n], at first zero: the first step is
  that of `pcgrad`, with the same key.

  The cosine with a zero gradient is zero, pairs with an absent one keep their
  target, and targets above 1 − 1e-5 count as that, since the correction grows
  as 1/√(1 − φ̂²). TorchJD instead adds 1e-8 to the denominators; its `beta` is
  1 − decay and has the same default.

  >>> gram = jnp.array([[1., -1.], [-1., 2.]])
  >>> gradvac()(gram, key=jax.random.key(0)).tolist()
  [2.0, 1.5]

  Args:
    decay: How much of a target stays at each step, in [0, 1].
    reduction: 'sum' of the corrected gradients, or their 'mean'.

  Raises:
    ValueError: Where an argument is outside of what is allowed.

  Wang et al., `Gradient Vaccine: Investigating and Improving Multi-task
  Optimization in Massively Multilingual Models
  <https://arxiv.org/abs/2010.05874>`_, 2020.
  """
  checks.choice('reduction', reduction, ('sum', 'mean'))
  checks.within('decay', decay, 0, 1)

  def step(gram, present, targets, key):
    gram = quadratic.normalised(gram)
    orders = _orders(key, len(gram))
    coefficients, new = jax.vmap(functools.partial(_vaccinate, gram, decay))(
      jnp.eye(len(gram), dtype=gram.dtype), orders, targets)
    both = present[:, None] & present[None, :]
    return (_reduced(coefficients, present, reduction),
            jnp.where(both, new, targets))

  return core.Weighting(
    step, lambda n: jnp.zeros((n, n), jnp.float32), needs_key=True,
    needs_size=True)


def upgrad(*, ridge: float = 1e-4) -> core.Weighting:
  """Project each gradient onto the dual cone of all, then average.

  w = 1/n Σ_i argmin_{v ≥ e_i} vᵀHv with H = G/tr G + ridge·I.

  The update conflicts with no gradient: ⟨g_i, Σ w_j g_j⟩ ≥ −ridge·w_i·tr G;
  it vanishes where it has to, at strongly stationary points. TorchJD's values
  up to rounding, except that it takes a Gram with a trace below 1e-4 for zero,
  whatever the scale of the loss.

  >>> [round(w, 4) for w in upgrad()(
  ...   jnp.array([[18., -22.], [-22., 38.]])).tolist()]
  [1.1109, 0.7894]

  Args:
    ridge: Relative to the trace; makes the weights unique. Positive, and in
      float32 from some 1e-6 on.

  Raises:
    ValueError: Unless `ridge` is positive and finite.

  Quinton and Rey, `Jacobian Descent for Multi-Objective Optimization
  <https://arxiv.org/abs/2406.16232>`_, 2024.
  """
  checks.positive('ridge', ridge)

  def weigh(gram, present):
    h = _regularised(gram, ridge)
    rows = jnp.diag(present.astype(gram.dtype))
    above = jax.vmap(functools.partial(_above, h))(rows)
    return jnp.sum(rows + above, 0) / jnp.maximum(jnp.sum(present), 1)

  return core.stateless(weigh)


def dual_proj(*, ridge: float = 1e-4) -> core.Weighting:
  """Project the mean gradient onto the dual cone of all gradients.

  w = argmin_{v ≥ 1/n} vᵀHv with H = G/tr G + ridge·I.

  The vector closest to the mean that conflicts with no gradient, to the
  accuracy of `upgrad`. The projection of Gradient Episodic Memory, there of
  one gradient onto the cone of those of the memory; this is TorchJD's rule.

  >>> [round(w, 4) for w in dual_proj()(
  ...   jnp.array([[18., -22.], [-22., 38.]])).tolist()]
  [0.6109, 0.5]

  Args:
    ridge: As for `upgrad`.

  Raises:
    ValueError: Unless `ridge` is positive and finite.

  Lopez-Paz and Ranzato, `Gradient Episodic Memory for Continual Learning
  <https://arxiv.org/abs/1706.08840>`_, 2017.
  """
  checks.positive('ridge', ridge)

  def weigh(gram, present):
    mean = core.uniform(present)
    return mean + _above(_regularised(gram, ridge), mean)

  return core.stateless(weigh)


def _project(gram, row, order):
  """PCGrad's coefficients, of one gradient."""
  def visit(k, c):
    j = order[k]
    product, square = core.dot(gram[j], c), gram[j, j]
    conflict = (product < 0) & (square > 0) & (row[j] == 0)
    return c.at[j].add(jnp.where(
      conflict, -product / jnp.where(square > 0, square, 1), 0))

  return jax.lax.fori_loop(0, len(gram), visit, row + 0 * gram[0])


def _vaccinate(gram, decay, row, order, targets):
  """GradVac's coefficients and the next targets, of one gradient."""
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
  """The length of p = Σ c_k g_k, and cos(p, g_j), zero if one is zero."""
  along = core.dot(gram, c)
  length = jnp.sqrt(jnp.maximum(core.dot(c, along), 0))
  both = length * jnp.sqrt(gram[j, j])
  cosine = jnp.where(both > 0, along[j] / jnp.where(both > 0, both, 1), 0)
  return length, jnp.clip(cosine, -1, 1)


def _sine(cosine):
  return jnp.sqrt((1 - cosine) * (1 + cosine))


def _orders(key, n):
  """For each i a random order of all j, row j of row i from (key, i, j)."""
  def number(i, j):
    return jax.random.uniform(
      jax.random.fold_in(jax.random.fold_in(key, i), j))

  index = jnp.arange(n)
  numbers = jax.vmap(lambda i: jax.vmap(lambda j: number(i, j))(index))(index)
  return jnp.argsort(numbers, axis=1)


def _reduced(coefficients, present, reduction):
  weights = jnp.sum(jnp.where(present[:, None], coefficients, 0), 0)
  if reduction == 'mean':
    weights /= jnp.maximum(jnp.sum(present), 1)
  return weights


def _above(h, least):
  """Of v ≥ least that minimises vᵀHv, what is above it."""
  return quadratic.nonnegative(h, core.dot(h, least))


def _regularised(gram, ridge):
  gram = quadratic.normalised(gram)
  trace = jnp.trace(gram)
  own = ridge * jnp.eye(len(gram), dtype=gram.dtype)
  return gram / jnp.where(trace > 0, trace, 1) + own
