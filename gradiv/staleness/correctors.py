"""What a stale gradient would be by now: corrected, or foreseen."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradiv._common import checks, trees
from gradiv.staleness import step_sizes

CURVATURES = ('squared', 'normalized', 'averaged')


class CompensateDelayState(NamedTuple):
  """State of `compensate_delay`.

  Attributes:
    nu: Averages of the squared gradient, at least float32; of 'squared', ().
  """

  nu: Any


def compensate_delay(
  strength: float,
  *,
  curvature: str = 'squared',
  decay: float | None = None,
  eps: float = 1e-7,
) -> optax.GradientTransformationExtraArgs:
  """Add to a stale gradient what it has changed by since: g + h (x − x_τ).

  The second moment of the gradient stands for the diagonal h of the Hessian:

    squared     h = λ g²
    normalized  h = λ g² / √(ν + ε),  ν ← βν + (1 − β) g²
    averaged    h = λ ν

  The parameters x_τ at which the gradient was taken are the extra argument
  `stale_params`; `history` holds them. The first two are DC-ASGD-c and
  DC-ASGD-a of Zheng et al., `Asynchronous Stochastic Gradient Descent with
  Delay Compensation <https://arxiv.org/abs/1609.08326>`_, 2017.

  >>> tx = compensate_delay(0.5)  # f = x²: the gradient at 2 is 4, at 3 is 6
  >>> x, stale = jnp.float32(3.), jnp.float32(2.)
  >>> float(tx.update(2 * stale, tx.init(x), x, stale_params=stale)[0])
  12.0
  >>> tx = compensate_delay(2 / 4**2)  # λ = h/g²
  >>> float(tx.update(2 * stale, tx.init(x), x, stale_params=stale)[0])
  6.0

  Args:
    strength: λ, at least 0.
    curvature: 'squared', 'normalized' or 'averaged'.
    decay: β, of 'normalized' and 'averaged'; ν starts at 0, as in the paper.
    eps: ε, positive.

  Raises:
    ValueError: On a bad argument; and, while tracing, where the parameters or
      the stale ones are not given.
  """
  checks.at_least('strength', strength, 0)
  checks.choice('curvature', curvature, CURVATURES)
  checks.positive('eps', eps)
  if curvature != 'squared' or decay is not None:
    checks.fraction('decay', decay)
  if curvature == 'squared' and decay is not None:
    raise ValueError(f"decay={decay!r}: must be None with curvature='squared'")

  def init_fn(params):
    if curvature == 'squared':
      return CompensateDelayState(())
    return CompensateDelayState(trees.zeros_wide(params))

  def hessian(g, nu=None):
    if curvature == 'averaged':
      return strength * nu
    scale = 1 if nu is None else 1 / jnp.sqrt(nu + eps)
    return strength * g**2 * scale

  def update_fn(updates, state, params=None, *, stale_params=None,
                **extra_args):
    del extra_args
    if params is None or stale_params is None:
      raise ValueError('params and stale_params: both must be given')
    wide = trees.widen(updates)
    averages = ()
    if curvature != 'squared':
      averages = (jax.tree.map(
        lambda v, g: (decay * v + (1 - decay) * g**2).astype(v.dtype),
        state.nu, wide),)
    drift = jax.tree.map(lambda x, old: trees.widen(x) - trees.widen(old),
                         params, stale_params)
    correct = lambda g, u, d, *v: (u + hessian(u, *v) * d).astype(g.dtype)
    corrected = jax.tree.map(correct, updates, wide, drift, *averages)
    return corrected, CompensateDelayState(*(averages or ((),)))

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def predict_params(
  params: Any, last_updates: optax.Updates, staleness: Any
) -> Any:
  """Foresee where parameters will be when the gradient is used: x + τ u.

  If each update is as the last one; take the gradient there, and delay it.

  >>> float(predict_params(jnp.float32(1.), jnp.float32(-0.25), 3))
  0.25

  Args:
    params: x.
    last_updates: u, what was added to them last.
    staleness: τ: one number, or, by leaf, a tree of them.
  """
  move = lambda x, u, s: (x + s * trees.widen(u)).astype(x.dtype)
  if step_sizes.is_one(staleness):
    return jax.tree.map(lambda x, u: move(x, u, staleness), params,
                        last_updates)
  return jax.tree.map(move, params, last_updates, staleness)
