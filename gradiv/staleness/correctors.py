"""Correct a stale gradient, or foresee the parameters it will be used at."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradiv._common import checks, stateful, trees
from gradiv.staleness import scaling_steps

CURVATURES = ('squared', 'normalized', 'averaged')


class CompensateDelayState(NamedTuple):
  """State of `compensate_delay`.

  Attributes:
    nu: Running averages of the squared gradient, in at least float32; () with
      curvature='squared'.
  """

  nu: Any


def compensate_delay(
  strength: float,
  *,
  curvature: str = 'squared',
  decay: float | None = None,
  eps: float = 1e-7,
) -> optax.GradientTransformationExtraArgs:
  """Estimate the present gradient from a stale one: g + h(x − x_τ).

  Use it in front of an optimizer whose gradients arrive late. The diagonal of
  the Hessian, h, is approximated by the second moment of the gradient:

    squared     h = λ g²                             (DC-ASGD-c)
    normalized  h = λ g² / √(ν + ε),  ν ← βν + (1 − β) g²   (DC-ASGD-a)
    averaged    h = λ ν

  Pass the parameters x_τ at which the gradient was taken to ``update`` as
  `stale_params`; `gradiv.staleness.history` keeps them.

  *Zheng et al., `Asynchronous Stochastic Gradient Descent with Delay
  Compensation <https://arxiv.org/abs/1609.08326>`_, 2017*.

  For f = x² the gradient is 4 at the stale x_τ = 2 and 6 at the present x = 3.
  With λ = h/g² = 2/4² the correction is exact:

  >>> tx = compensate_delay(2 / 4**2)
  >>> x, stale = jnp.float32(3.), jnp.float32(2.)
  >>> float(tx.update(2 * stale, tx.init(x), x, stale_params=stale)[0])
  6.0

  Args:
    strength: λ, at least 0.
    curvature: 'squared', 'normalized' or 'averaged'.
    decay: β, for 'normalized' and 'averaged' only. ν starts at 0, as in the
      paper.
    eps: ε, positive.

  Raises:
    ValueError: While tracing, if `params` or `stale_params` is not passed.
  """
  checks.at_least('strength', strength, 0, one=True)
  checks.choice('curvature', curvature, CURVATURES)
  checks.positive('eps', eps, one=True)
  if curvature != 'squared' or decay is not None:
    checks.fraction('decay', decay, one=True)
  if curvature == 'squared' and decay is not None:
    raise ValueError(f"decay={decay!r}: must be None with curvature='squared'")

  def init_fn(params):
    if curvature == 'squared':
      return CompensateDelayState(())
    return CompensateDelayState(trees.zeros_wide(params))

  def hessian(g, *nu):
    if curvature == 'averaged':
      return strength * nu[0]
    scale = 1 / jnp.sqrt(nu[0] + eps) if nu else 1
    return strength * g**2 * scale

  def update_fn(updates, state, params=None, *, stale_params=None,
                **extra_args):
    del extra_args
    if params is None or stale_params is None:
      raise ValueError('params and stale_params: both must be passed')
    trees.check_floating(updates, or_complex=True)
    wide = trees.widen(updates)
    averages = []
    if curvature != 'squared':
      averages = [_average_squares(state.nu, wide, decay)]
    drift = jax.tree.map(lambda x, old: trees.widen(x) - trees.widen(old),
                         params, stale_params)
    correct = lambda g, u, d, *v: (u + hessian(u, *v) * d).astype(g.dtype)
    corrected = jax.tree.map(correct, updates, wide, drift, *averages)
    return corrected, CompensateDelayState(averages[0] if averages else ())

  return stateful.transformation(
    init_fn, update_fn, CompensateDelayState, like_params=('nu',))


def _average_squares(nu, grads, decay):
  return jax.tree.map(
    lambda v, g: (decay * v + (1 - decay) * g**2).astype(v.dtype), nu, grads)


def predict_params(
  params: Any, last_updates: optax.Updates, staleness: Any
) -> Any:
  """Predict where the parameters will be τ steps from now: x + τu.

  Take the gradient there, and it fits the parameters it is applied to. The
  prediction assumes that each update equals the last one.

  >>> float(predict_params(jnp.float32(1.), jnp.float32(-0.25), 3))
  0.25

  Args:
    params: x, the present parameters.
    last_updates: u, the last update, a tree like `params`.
    staleness: τ, one number or a tree with one per leaf.
  """
  move = lambda x, u, s: (x + s * trees.widen(u)).astype(x.dtype)
  return scaling_steps.map_with_staleness(
    move, staleness, params, last_updates)
