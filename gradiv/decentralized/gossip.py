"""Decentralized SGD: each worker has its own parameters and mixes them."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradiv import workers
from gradiv._common import checks, counting, stateful
from gradiv.decentralized import _pulls, _updates, topology

ORDERS = ('awc', 'atc', 'cta')


class MixByGossipState(NamedTuple):
  """State of `mix_by_gossip`.

  Attributes:
    count: Number of steps so far; chooses the matrix of a sequence.
    num_left_out: How often this worker has left out a neighbor, or an update
      of its own, because it was not finite.
  """

  count: jax.Array
  num_left_out: jax.Array


def mix_by_gossip(
  mixing_matrix: np.ndarray | Sequence[np.ndarray],
  axis_name: workers.AxisName,
  *,
  order: str = 'awc',
) -> optax.GradientTransformationExtraArgs:
  """Mix parameters with the neighbors at each step: decentralized SGD.

  Use it as the last link of a chain when an all-reduce per step is too slow, or
  when workers with parameters of their own are wanted, whose spread smooths the
  loss at large learning rates. Where the workers' data differ, it ends O(α)
  away from the optimum; see the package for methods that do not.

  With the parameters x of all workers, their updates u, and the mixing matrix
  W, `order` selects

    awc  x ← W x + u      mixing runs beside the gradient (Lian et al., and
                          Zhang et al.); stable for αh < 1 + λ_min(W)
    atc  x ← W (x + u)    adapt, then combine; stable for αh < 2
    cta  x ← W' (x + u)   combine, then adapt, with W' the next matrix of the
                          sequence: the gradient is taken at the combined
                          parameters, so this is 'atc' shifted by half a step

  on curvature h at learning rate α. The mean over the workers moves by the mean
  of u in all three, as in SGD. Under another `jax.vmap`, such as one over
  random seeds, every matrix of a sequence is applied at each step, because the
  turn may then differ by seed.

  >>> import gradiv
  >>> tx = optax.chain(optax.sgd(0.5), mix_by_gossip(
  ...     topology.complete(2), 'workers', order='atc'))
  >>> def step(x, c):  # The loss of a worker is (x − c)²/2.
  ...   updates, _ = tx.update(x - c, tx.init(x), x)
  ...   return optax.apply_updates(x, updates)
  >>> gradiv.map_workers(step, 'workers')(
  ...     jnp.zeros(2), jnp.array([2., 6.])).tolist()
  [2.0, 2.0]

  The workers step to 1 and 3, and their mean is 2.

  Lian et al., `Can Decentralized Algorithms Outperform Centralized Algorithms?
  <https://arxiv.org/abs/1705.09056>`_, 2017; Zhang et al., `Loss Landscape
  Dependent Self-Adjusting Learning Rates
  <https://arxiv.org/abs/2112.01433>`_, 2021.

  Args:
    mixing_matrix: W [n, n], or a sequence [t, n, n] that is used in turn.
    axis_name: The axis of the workers; see `mix`.
    order: 'awc', 'atc' or 'cta'.

  Raises:
    ValueError: While tracing, if the matrix is not of the size of the axis, or
      no parameters are passed.
  """
  bank = topology.check(mixing_matrix, 'mixing_matrix')
  checks.choice('order', order, ORDERS)
  pull = _pulls.pull_in_turn(bank, axis_name)

  def init_fn(params):
    del params
    return MixByGossipState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

  def update_fn(updates, state, params=None, **extra_args):
    del extra_args
    _updates.check_given(params, updates)
    if order == 'awc':
      pulled = pull(params, state.count)
      moved, without = _updates.add_finite(axis_name, (pulled.pull,), updates)
      moved = jax.tree.map(lambda u, p: u.astype(p.dtype), moved, params)
      left_out = without + pulled.num_left_out
    else:
      moved, left_out = _updates.step_and_pull(
        axis_name, params, updates, lambda stepped: pull(
          stepped, state.count + (order == 'cta')))
    return moved, MixByGossipState(
      counting.increment(state.count),
      counting.increment(state.num_left_out, left_out))

  return stateful.transformation(init_fn, update_fn, MixByGossipState)
