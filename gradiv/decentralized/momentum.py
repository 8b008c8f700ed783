"""Momentum for workers that differ: of the workers' common way, not of each.

A worker's own momentum, ``optax.sgd(α, momentum)`` before `mix_by_gossip`,
amplifies what pulls the workers apart. These do not.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradiv import workers
from gradiv._common import checks, trees
from gradiv.decentralized import corrected, gossip, mixing, topology


class MixByMomentumState(NamedTuple):
  """State of `mix_by_quasi_global_momentum` and of `mix_by_decentlam`.

  Attributes:
    count: Steps so far.
    momentum: m, an average or a sum of steps, mixing included; at least
      float32.
  """

  count: jax.Array
  momentum: optax.Updates


def mix_by_quasi_global_momentum(
  mixing_matrix: np.ndarray | Sequence[np.ndarray],
  axis_name: workers.AxisName,
  *,
  momentum: float = 0.9,
  share: float | None = None,
  nesterov: bool = False,
  schedule: optax.Schedule | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Mix with momentum along the way that the mixed parameters went.

  With the update u of the chain before, and m in units of steps:

    v = u + β m  (nesterov: u + β (u + β m)),  x' = W (x + v)
    m ← (1 − μ) m + μ (x' − x),  x ← x'

  >>> import gradiv
  >>> tx = optax.chain(optax.sgd(0.5), mix_by_quasi_global_momentum(
  ...     topology.ring(4), 'workers', momentum=0.9))
  >>> def run(x):  # a worker's loss is x²/2
  ...   updates, state = tx.update(x, tx.init(x), x)
  ...   x = optax.apply_updates(x, updates)
  ...   return x, x + tx.update(0 * x, state, x)[0]
  >>> first, then = gradiv.map_workers(run, 'workers')(
  ...     jnp.array([6., 6., 0., 0.]))
  >>> first.round(4).tolist()
  [2.0, 2.0, 1.0, 1.0]
  >>> [round(x, 4) for x in then.tolist()]  # on by 0.9 · 0.1 of that, mixed
  [1.4567, 1.4567, 1.2733, 1.2733]

  Lin et al., `Quasi-Global Momentum <https://arxiv.org/abs/2102.04761>`_, 2021.

  Args:
    mixing_matrix: W [n, n], or a sequence that is taken in turn.
    axis_name: The axis over which the workers lie; see `mix`.
    momentum: β, from 0 to below 1.
    share: μ, above 0 and at most 1; 1 − β where it is None.
    nesterov: Whether to look ahead.
    schedule: The learning rate by step, where it changes: m is rescaled.

  Raises:
    ValueError: On a bad argument; and, while tracing, as `mix_by_gossip`.
  """
  bank = topology.check(mixing_matrix, 'mixing_matrix')
  mixing.names_of(axis_name)
  checks.fraction('momentum', momentum)
  share = 1 - momentum if share is None else share
  checks.positive('share', share)
  checks.within('share', share, 0, 1)
  pull = mixing.pull_in_turn(bank, axis_name)

  def init_fn(params):
    return MixByMomentumState(
      jnp.zeros((), jnp.int32), trees.zeros_wide(params))

  def update_fn(updates, state, params=None, **extra_args):
    del extra_args
    gossip.check_given(params)
    m = corrected.rescale(state.momentum, schedule, state.count)
    heavy = jax.tree.map(lambda u, m: u + momentum * m, updates, m)
    if nesterov:
      heavy = jax.tree.map(lambda u, v: u + momentum * v, updates, heavy)
    moved = gossip.step_and_pull(
      params, heavy, lambda stepped: pull(stepped, state.count))
    m = jax.tree.map(
      lambda m, d: ((1 - share) * m + share * d).astype(m.dtype), m, moved)
    return moved, MixByMomentumState(optax.safe_increment(state.count), m)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def mix_by_decentlam(
  mixing_matrix: np.ndarray | Sequence[np.ndarray],
  axis_name: workers.AxisName,
  *,
  momentum: float = 0.9,
  schedule: optax.Schedule | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Mix, and put the momentum behind: DecentLaM.

  m ← β m + W (x + u) − x,  x ← x + m: heavy ball on the step of 'atc', so that
  it ends where decentralised SGD without momentum ends.

  >>> import gradiv
  >>> tx = mix_by_decentlam(topology.complete(2), 'workers', momentum=0.5)
  >>> def run(x):
  ...   updates, state = tx.update(0 * x, tx.init(x), x)
  ...   x = x + updates
  ...   return x + tx.update(0 * x, state, x)[0]
  >>> gradiv.map_workers(run, 'workers')(jnp.array([0., 4.])).tolist()
  [3.0, 1.0]

  Yuan et al., `DecentLaM: Decentralized Momentum SGD for Large-batch Deep
  Training <https://arxiv.org/abs/2104.11981>`_, 2021.

  Args:
    mixing_matrix: W [n, n], or a sequence that is taken in turn.
    axis_name: The axis over which the workers lie; see `mix`.
    momentum: β, from 0 to below 1.
    schedule: The learning rate by step, where it changes: m is rescaled.

  Raises:
    ValueError: On a bad argument; and, while tracing, as `mix_by_gossip`.
  """
  bank = topology.check(mixing_matrix, 'mixing_matrix')
  mixing.names_of(axis_name)
  checks.fraction('momentum', momentum)
  pull = mixing.pull_in_turn(bank, axis_name)

  def init_fn(params):
    return MixByMomentumState(
      jnp.zeros((), jnp.int32), trees.zeros_wide(params))

  def update_fn(updates, state, params=None, **extra_args):
    del extra_args
    gossip.check_given(params)
    moved = gossip.step_and_pull(
      params, updates, lambda stepped: pull(stepped, state.count))
    m = jax.tree.map(
      lambda m, d: (momentum * m + d).astype(m.dtype),
      corrected.rescale(state.momentum, schedule, state.count), moved)
    return optax.tree.cast_like(m, params), MixByMomentumState(
      optax.safe_increment(state.count), m)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
