"""Decentralised SGD: parameters of each worker's own, that mix."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from gradiv import workers
from gradiv._common import checks, trees
from gradiv.decentralized import mixing, topology

ORDERS = ('awc', 'atc', 'cta')


class MixByGossipState(NamedTuple):
  """State of `mix_by_gossip`.

  Attributes:
    count: Steps so far, whose turn in the sequence it is.
  """

  count: jax.Array


def mix_by_gossip(
  mixing_matrix: np.ndarray | Sequence[np.ndarray],
  axis_name: workers.AxisName,
  *,
  order: str = 'awc',
) -> optax.GradientTransformationExtraArgs:
  """Make the last step of an optimizer one of decentralised SGD.

  With the parameters x of all workers, their updates u and W:

    awc  x ← W x + u      mixing runs beside the gradient (Lian et al., and
                          Zhang et al.); stable for αh < 1 + λ_min(W)
    atc  x ← W (x + u)    adapt, then combine: for αh < 2
    cta  x ← W' (x + u)   combine, then adapt, W' the next of the sequence: x
                          are the combined parameters, where the gradient is
                          taken, so that a run is that of 'atc' half a step on

  Parameters and state are each worker's own: start from
  ``replicate(params, n)``. The mean over the workers moves as in SGD, by the
  mean of u. Under a further `jax.vmap`, over seeds, say, all matrices of a
  sequence are computed at each step, as the choice is then one of each seed.

  >>> import gradiv
  >>> tx = optax.chain(optax.sgd(0.5), mix_by_gossip(
  ...     topology.complete(2), 'workers', order='atc'))
  >>> def step(x, c):  # a worker's loss is (x − c)²/2
  ...   updates, _ = tx.update(x - c, tx.init(x), x)
  ...   return optax.apply_updates(x, updates)
  >>> gradiv.map_workers(step, 'workers')(
  ...     jnp.zeros(2), jnp.array([2., 6.])).tolist()
  [2.0, 2.0]

  Lian et al., `Can Decentralized Algorithms Outperform Centralized Algorithms?
  <https://arxiv.org/abs/1705.09056>`_, 2017; Zhang et al., `Loss Landscape
  Dependent Self-Adjusting Learning Rates
  <https://arxiv.org/abs/2112.01433>`_, 2021.

  Args:
    mixing_matrix: W [n, n], or a sequence [t, n, n] that is taken in turn.
    axis_name: The axis over which the workers lie; see `mix`.
    order: 'awc', 'atc' or 'cta'.

  Raises:
    ValueError: On a bad argument, and, while tracing, where the matrix is not
      of as many workers as there are, or no parameters are given.
  """
  bank = topology.check(mixing_matrix, 'mixing_matrix')
  mixing.names_of(axis_name)
  checks.choice('order', order, ORDERS)

  pull = mixing.pull_in_turn(bank, axis_name)

  def init_fn(params):
    del params
    return MixByGossipState(jnp.zeros((), jnp.int32))

  def update_fn(updates, state, params=None, **extra_args):
    del extra_args
    check_given(params)
    if order == 'awc':
      result = jax.tree.map(
        lambda p, u, d: (u + d).astype(p.dtype), params, updates,
        pull(params, state.count))
    else:
      result = step_and_pull(params, updates, lambda stepped: pull(
        stepped, state.count + (order == 'cta')))
    return result, MixByGossipState(optax.safe_increment(state.count))

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def check_given(params: Any) -> None:
  """Raise ValueError where an update is not told the parameters."""
  if params is None:
    raise ValueError('params=None: must be given, as they are mixed')


def step_and_pull(
  params: Any, updates: Any, pull: Callable[[Any], Any]
) -> Any:
  """Return what leads from x to W (x + u), in the dtypes of x."""
  stepped = jax.tree.map(
    lambda x, u: (x + u).astype(x.dtype), params, updates)
  return jax.tree.map(
    lambda x, s, d: ((s - x) + d).astype(x.dtype), params, stepped,
    pull(stepped))


def consensus_distance(params: Any, axis_name: workers.AxisName) -> jax.Array:
  """Compute (1/n) Σ ‖x_i − x̄‖², how far workers are from their mean.

  Costs an all-reduce of the parameters: look now and then.

  >>> jax.vmap(lambda x: consensus_distance(x, 'workers'),
  ...          axis_name='workers')(jnp.array([1., 3.])).tolist()
  [1.0, 1.0]
  """
  names = workers.names_of(axis_name)
  wide = trees.widen(params)
  own = [trees.sq_norm(x - lax.pmean(x, names))
         for x in jax.tree.leaves(wide)]
  return lax.pmean(sum(own, jnp.float32(0)), names)
