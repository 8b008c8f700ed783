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

from gradiv import axes, checks, topology
from gradiv.gossip import corrected, mixing, plain


class QuasiGlobalState(NamedTuple):
  """State of `mix_by_quasi_global_momentum`.

  Attributes:
    count: Steps so far.
    momentum: Average of the steps that were taken, mixing included.
  """

  count: jax.Array
  momentum: optax.Updates


def mix_by_quasi_global_momentum(
  mixing_matrix: np.ndarray | Sequence[np.ndarray],
  axis_name: axes.AxisName,
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
  >>> x = jnp.ones(4)
  >>> gradiv.map_workers(lambda x: tx.update(x, tx.init(x), x)[0], 'workers')(
  ...     x).round(4).tolist()
  [-0.5, -0.5, -0.5, -0.5]

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
  axes.names_of(axis_name)
  checks.share('momentum', momentum)
  share = 1 - momentum if share is None else share
  checks.positive('share', share)
  checks.within('share', share, 0, 1)
  pull = mixing.pull_in_turn(bank, axis_name)

  def init_fn(params):
    return QuasiGlobalState(
      jnp.zeros((), jnp.int32), corrected.wide_zeros(params))

  def update_fn(updates, state, params=None, **extra_args):
    del extra_args
    plain.check_given(params)
    m = corrected.rescale(state.momentum, schedule, state.count)
    heavy = jax.tree.map(lambda u, m: u + momentum * m, updates, m)
    if nesterov:
      heavy = jax.tree.map(lambda u, v: u + momentum * v, updates, heavy)
    stepped = jax.tree.map(
      lambda x, v: (x + v).astype(x.dtype), params, heavy)
    moved = jax.tree.map(
      lambda x, d, p: ((x - p) + d).astype(p.dtype), stepped,
      pull(stepped, state.count), params)
    m = jax.tree.map(
      lambda m, d: ((1 - share) * m + share * d).astype(m.dtype), m, moved)
    return moved, QuasiGlobalState(optax.safe_increment(state.count), m)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def mix_by_decentlam(
  mixing_matrix: np.ndarray | Sequence[np.ndarray],
  axis_name: axes.AxisName,
  *,
  momentum: float = 0.9,
) -> optax.GradientTransformationExtraArgs:
  """Mix, and put the momentum behind: DecentLaM.

  m ← β m + W (x + u) − x,  x ← x + m: heavy ball on the step of 'atc', so that
  it ends where decentralised SGD without momentum ends.

  >>> tx = optax.chain(optax.sgd(0.1), mix_by_decentlam(
  ...     topology.ring(4), 'workers', momentum=0.9))

  Yuan et al., `DecentLaM: Decentralized Momentum SGD for Large-batch Deep
  Training <https://arxiv.org/abs/2104.11981>`_, 2021.

  Args:
    mixing_matrix: W [n, n], or a sequence that is taken in turn.
    axis_name: The axis over which the workers lie; see `mix`.
    momentum: β, from 0 to below 1.

  Raises:
    ValueError: On a bad argument; and, while tracing, as `mix_by_gossip`.
  """
  checks.share('momentum', momentum)
  return optax.with_extra_args_support(optax.chain(
    plain.mix_by_gossip(mixing_matrix, axis_name, order='atc'),
    optax.trace(momentum)))
