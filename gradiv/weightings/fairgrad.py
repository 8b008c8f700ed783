"""FairGrad: share the progress between the gradients α-fairly."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradiv._common import checks
from gradiv.weightings import _numbers, _solvers, geometry, weighting

_ROUNDS = 50


def fairgrad(alpha: jax.typing.ArrayLike = 1.) -> weighting.Weighting:
  """Share the progress between the losses fairly, to a degree of your choice.

  Use it to train on several losses. A small `alpha` favors the loss that can
  gain most; 1 is proportional fairness, the direction of `nash_mtl`; a large
  one helps the loss that gains least.

  w > 0 with (Gw)_i = w_i^(−1/α): Σ w_i g_i maximizes Σ gain_i^(1−α)/(1−α), or
  Σ log gain_i for α = 1, over all updates of one length.

  >>> # With orthogonal gradients w_i = ‖g_i‖^(−2α/(1+α)).
  >>> fairgrad(2.)(jnp.diag(jnp.array([1., 8.]))).round(3).tolist()
  [1.0, 0.25]

  A zero gradient has nothing to gain and gets no weight. To be safe from
  rounding, each gradient counts as if it had another component of its own of
  0.2 % of its length. It is solved by Newton's method; TorchJD calls SciPy.

  Args:
    alpha: α, positive. Below 0.2 or so, and above 10, weights differ by orders
      of magnitude and are less exact.

  Ban and Ji, `Fair Resource Allocation in Multi-Task Learning
  <https://arxiv.org/abs/2402.15638>`_, 2024.
  """
  checks.positive('alpha', alpha, one=True)
  alpha = _numbers.as_float(alpha)

  def weigh(gram, present):
    del present
    norms, cos, alive = geometry.cosines(gram)
    # With x_i = w_i ‖g_i‖: (Cx)_i = b_i x_i^−p, up to a common factor of b.
    p = 1 / alpha
    log_b = jnp.where(alive, (p - 1) * jnp.log(norms), 0)
    shift = jnp.max(jnp.where(alive, log_b, -jnp.inf), initial=-1e30)
    shift = jnp.where(jnp.any(alive), shift, 0)
    log_b = jnp.where(alive, log_b - shift, 0)
    x = _solve(_solvers.ridged(cos), log_b, p)
    return jnp.where(alive, x * jnp.exp(shift / (1 + p)) / norms, 0)

  return weighting.stateless(weigh)


class _State(NamedTuple):
  log_x: jax.Array
  done: jax.Array
  count: int


def _solve(cos, log_b, p):
  """Solve Cx = b x^−p for x > 0, by Newton's method in log x.

  x minimizes ½ xᵀCx − Σ b_i (x_i^(1−p) − 1)/(1−p), which is convex.
  """
  steps = 2. ** -jnp.arange(12, dtype=cos.dtype)

  def objective(log_x):
    # expm1(0)/0 is the logarithm, for p = 1.
    power = (1 - p) * log_x
    small = jnp.abs(power) < 1e-4
    gain = jnp.where(small, log_x * (1 + power / 2), jnp.expm1(power) / (
      jnp.where(small, 1, power)) * log_x)
    x = jnp.exp(log_x)
    return geometry.dot(x, geometry.dot(cos, x)) / 2 - jnp.sum(
      jnp.exp(log_b) * gain)

  def descend(state):
    x = jnp.exp(state.log_x)
    pull = jnp.exp(log_b + (1 - p) * state.log_x)
    c = cos * x[:, None] * x[None, :]
    z = jnp.linalg.solve(c + p * jnp.diag(pull), pull - c.sum(1))
    largest = jnp.abs(z).max()
    z = z * jnp.minimum(1, 3 / jnp.maximum(largest, 1e-30))
    tried = state.log_x[None] + steps[:, None] * z[None]
    best = jnp.argmin(jax.vmap(objective)(tried))
    # Near the solution the objective is flat up to rounding.
    return _State(tried[jnp.where(largest < 0.25, 0, best)], largest < 1e-5,
                  state.count + 1)

  start = log_b / (1 + p) + 0 * cos[0]
  end = jax.lax.while_loop(
    lambda s: ~s.done & (s.count < _ROUNDS), descend,
    _State(start, start[0] != start[0], 0))
  return jnp.exp(end.log_x)
