"""The metric of Adam, read from the optimizer's state.

Steps along g in the units of Adam's preconditioner P = 1/(√v̂ + ε) are steepest
descents for the norm Σ |w_j|²/P_j. Gradients are then measured in its dual norm
‖g‖² = Σ P_j |g_j|². A loss whose Hessian is β/P, the case for which P is the
ideal preconditioner, falls in one step of P g_B, with the best rate, by

  ‖∇F‖²_P / (2 β) / (1 + ρ/B),    ρ = tr(P Σ) / ‖∇F‖²_P,

as one of Hessian β falls in a step of plain SGD with the Euclidean ρ: to see
it, replace w by √P w. So the batch-size bound 1 + ρ in this metric is the one
that an Adam user asks for.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradiv._common import checks, trees

Scalar = jax.typing.ArrayLike


def adam_metric(
  opt_state: Any,
  *,
  decay: Scalar = 0.999,
  eps: Scalar = 1e-8,
  eps_root: Scalar = 0.,
  power: Scalar = 1.,
) -> optax.Updates:
  """Return the weights P = 1/(√v̂ + ε) of Adam, as of the step before.

  Use it to measure the noise scale and B_S of Adam rather than those of SGD:
  pass it as ``metric`` to the ``update`` of `track_moments`, to
  `worker_moments`, to the ``update`` of `accumulate_moments` or to the function
  that `example_moments` returns. Ask for it before the step: v̂ then does not
  depend on the gradients that are compared, and all estimates stay unbiased,
  in the metric of this step. (After the step, v̂ holds their own squares and
  shrinks the noise of the coordinates where it happens to be large.)

  Coordinates where v is zero, which have never had a gradient, get the weight
  0 and are left out. Before Adam's first step all weights are NaN, which
  trackers skip.

  Args:
    opt_state: Any tree that contains one `optax.ScaleByAdamState`, such as the
      state of `optax.adamw` or of a chain. Of several, as in
      `optax.partition`, each must be for parameters of its own, and every
      parameter must have one.
    decay: β₂ of the optimizer: v̂ = v/(1 − β₂ᵗ) after t steps, as in optax. The
      state does not hold it.
    eps: ε of the optimizer.
    eps_root: Its `eps_root`, added to v̂ under the root.
    power: Exponent of P. 1 for the norm in which Adam descends; 2 for the
      length of the steps P g that Adam takes, the statistic of AdaptDL.

  Returns:
    Weights d, a tree like the gradient, for ‖g‖² = Σ d_j g_j².

  Raises:
    ValueError: If there is no state of Adam, or if of several states a
      parameter is in none or in more than one.

  >>> adam = optax.scale_by_adam()
  >>> state = adam.init(jnp.zeros(2))
  >>> _, state = adam.update(jnp.array([4., 0.]), state)
  >>> [round(float(d), 3) for d in adam_metric(state)]  # 1/√4², and a zero v
  [0.25, 0.0]
  """
  checks.between('decay', decay, 0, 1)
  checks.positive('eps', eps)
  checks.at_least('eps_root', eps_root, 0)
  checks.positive('power', power)

  def weight(nu, count):
    nu = nu.astype(trees.wide_dtype(nu.dtype))
    correction = jnp.where(
      count > 0, 1 - decay ** jnp.maximum(count, 1), jnp.nan)
    root = jnp.sqrt(
      jnp.where(nu > 0, nu, 1.) / correction + eps_root) + eps
    is_one = isinstance(power, int | float) and power == 1
    # A zero divided by NaN is NaN: before the first step all are.
    return (nu > 0) / (root if is_one else root ** power)

  states = find_states(opt_state)
  if not states:
    raise ValueError('opt_state holds no state of optax.scale_by_adam: must '
                     'hold one')
  return _joined([_weights_of(state, weight) for state in states])


def find_states(opt_state: Any) -> list[optax.ScaleByAdamState]:
  """List the states of Adam in a tree, however deep they are."""
  is_adam = lambda x: isinstance(x, optax.ScaleByAdamState)
  return [x for x in jax.tree.leaves(opt_state, is_leaf=is_adam)
          if is_adam(x)]


def _is_hole(x):
  return isinstance(x, optax.MaskedNode)


def _weights_of(state, weight):
  """Compute the weights of the parameters that one Adam updates."""
  (count,) = jax.tree.leaves(state.count)  # nnx wraps it in a variable
  return jax.tree.map(
    lambda nu: nu if _is_hole(nu) else weight(nu, count), state.nu,
    is_leaf=_is_hole)


def _joined(parts):
  """Join trees with holes, of which exactly one has each leaf."""
  if len(parts) == 1:  # its holes may be those of the gradient
    return parts[0]

  def join(path, *leaves):
    there = [x for x in leaves if not _is_hole(x)]
    if len(there) != 1:
      raise ValueError(
        f'opt_state holds {len(there)} states of optax.scale_by_adam for the '
        f'parameter {jax.tree_util.keystr(path)}: must hold one')
    return there[0]

  return jax.tree_util.tree_map_with_path(join, *parts, is_leaf=_is_hole)
