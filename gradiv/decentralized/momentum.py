"""Momentum that does not amplify how far the workers' data differ.

A worker's own momentum, as in ``optax.sgd(α, momentum)`` before
`mix_by_gossip`, amplifies the force by which its data pull it away from the
others. Both methods here derive the momentum from mixed parameters instead.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradiv import workers
from gradiv._common import checks, counting, stateful, trees
from gradiv.decentralized import _pulls, _updates, topology


class MixByMomentumState(NamedTuple):
  """State of `mix_by_quasi_global_momentum` and of `mix_by_decentlam`.

  Attributes:
    count: Number of steps so far.
    momentum: m, an average or a sum of steps that include the mixing, in at
      least float32.
    num_left_out: How often this worker has left out a neighbor, or an update
      of its own, because it was not finite.
  """

  count: jax.Array
  momentum: optax.Updates
  num_left_out: jax.Array


def mix_by_quasi_global_momentum(
  mixing_matrix: np.ndarray | Sequence[np.ndarray],
  axis_name: workers.AxisName,
  *,
  momentum: float = 0.9,
  decay: float | None = None,
  nesterov: bool = False,
  schedule: optax.Schedule | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Mix, with momentum along the path of the mixed parameters.

  Use it in place of momentum in the optimizer before it, when the workers' data
  differ. With the update u of the chain before it, and m in units of steps,

    v = u + β m  (with nesterov, v = u + β (u + β m)),  x' = W (x + v)
    m ← γ m + (1 − γ) (x' − x),  x ← x'

  >>> import gradiv
  >>> tx = optax.chain(optax.sgd(0.5), mix_by_quasi_global_momentum(
  ...     topology.ring(4), 'workers', momentum=0.9))
  >>> def run(x):  # The loss of a worker is x²/2.
  ...   updates, state = tx.update(x, tx.init(x), x)
  ...   x = optax.apply_updates(x, updates)
  ...   return x, x + tx.update(0 * x, state, x)[0]
  >>> first, then = gradiv.map_workers(run, 'workers')(
  ...     jnp.array([6., 6., 0., 0.]))
  >>> first.round(4).tolist()
  [2.0, 2.0, 1.0, 1.0]
  >>> [round(x, 4) for x in then.tolist()]
  [1.4567, 1.4567, 1.2733, 1.2733]

  In the second step, whose gradient is zero, the workers coast by 0.9 · 0.1 of
  their first step, and mix.

  Lin et al., `Quasi-Global Momentum <https://arxiv.org/abs/2102.04761>`_, 2021.

  Args:
    mixing_matrix: W [n, n], or a sequence that is used in turn.
    axis_name: The axis of the workers; see `mix`.
    momentum: β, from 0 to below 1.
    decay: γ of the average of steps, from 0 to below 1; β by default.
    nesterov: Whether to use Nesterov momentum.
    schedule: Learning rate by step, if it changes; m is then rescaled with it.

  Raises:
    ValueError: While tracing, as for `mix_by_gossip`.
  """
  bank = topology.check(mixing_matrix, 'mixing_matrix')
  checks.fraction('momentum', momentum, one=True)
  checks.function('schedule', schedule)
  decay = momentum if decay is None else decay
  checks.fraction('decay', decay, one=True)
  newest = 1 - decay
  pull = _pulls.pull_in_turn(bank, axis_name)

  def update_fn(updates, state, params=None, **extra_args):
    del extra_args
    _updates.check_given(params, updates)
    m = _updates.rescale(state.momentum, schedule, state.count)
    heavy = jax.tree.map(lambda u, m: u + momentum * m, updates, m)
    if nesterov:
      heavy = jax.tree.map(lambda u, v: u + momentum * v, updates, heavy)
    moved, left_out = _updates.step_and_pull(
      axis_name, params, heavy, lambda stepped: pull(stepped, state.count))
    m = jax.tree.map(
      lambda m, d: ((1 - newest) * m + newest * d).astype(m.dtype), m, moved)
    return moved, _next(state, m, left_out)

  return stateful.transformation(
    _init, update_fn, MixByMomentumState, like_params=('momentum',))


def mix_by_decentlam(
  mixing_matrix: np.ndarray | Sequence[np.ndarray],
  axis_name: workers.AxisName,
  *,
  momentum: float = 0.9,
  schedule: optax.Schedule | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Apply heavy-ball momentum after mixing: DecentLaM.

  Use it in place of momentum in the optimizer before it: it ends exactly where
  decentralized SGD without momentum would, in fewer steps.

    m ← β m + W (x + u) − x,  x ← x + m

  >>> import gradiv
  >>> tx = mix_by_decentlam(topology.complete(2), 'workers', momentum=0.5)
  >>> def run(x):
  ...   updates, state = tx.update(0 * x, tx.init(x), x)
  ...   x = x + updates
  ...   return x, x + tx.update(0 * x, state, x)[0]
  >>> first, second = gradiv.map_workers(run, 'workers')(jnp.array([0., 4.]))
  >>> first.tolist(), second.tolist()
  ([2.0, 2.0], [3.0, 1.0])

  Without gradients the workers meet at their mean, and momentum then carries
  each on by half of its step.

  Yuan et al., `DecentLaM: Decentralized Momentum SGD for Large-batch Deep
  Training <https://arxiv.org/abs/2104.11981>`_, 2021.

  Args:
    mixing_matrix: W [n, n], or a sequence that is used in turn.
    axis_name: The axis of the workers; see `mix`.
    momentum: β, from 0 to below 1.
    schedule: Learning rate by step, if it changes; m is then rescaled with it.

  Raises:
    ValueError: While tracing, as for `mix_by_gossip`.
  """
  bank = topology.check(mixing_matrix, 'mixing_matrix')
  checks.fraction('momentum', momentum, one=True)
  checks.function('schedule', schedule)
  pull = _pulls.pull_in_turn(bank, axis_name)

  def update_fn(updates, state, params=None, **extra_args):
    del extra_args
    _updates.check_given(params, updates)
    moved, left_out = _updates.step_and_pull(
      axis_name, params, updates, lambda stepped: pull(stepped, state.count))
    m = jax.tree.map(
      lambda m, d: (momentum * m + d).astype(m.dtype),
      _updates.rescale(state.momentum, schedule, state.count), moved)
    return optax.tree.cast_like(m, moved), _next(state, m, left_out)

  return stateful.transformation(
    _init, update_fn, MixByMomentumState, like_params=('momentum',))


def _init(params):
  return MixByMomentumState(jnp.zeros((), jnp.int32), trees.zeros_wide(params),
                            jnp.zeros((), jnp.int32))


def _next(state, momentum, left_out):
  return MixByMomentumState(
    counting.increment(state.count), momentum,
    counting.increment(state.num_left_out, left_out))
