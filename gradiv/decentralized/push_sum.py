"""Push-sum: averages on directed graphs, where rows do not add up to 1."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradiv import workers
from gradiv._common import trees
from gradiv.decentralized import gossip, mixing, topology


class PushSumState(NamedTuple):
  """State of `mix_by_push_sum`.

  Attributes:
    count: Steps so far.
    weight: v, how much of all that is dealt out this worker holds; 1 at first,
      and on average.
  """

  count: jax.Array
  weight: jax.Array


def mix_by_push_sum(
  mixing_matrix: np.ndarray | Sequence[np.ndarray],
  axis_name: workers.AxisName,
) -> optax.GradientTransformationExtraArgs:
  """Step, deal out, and divide by what was dealt: stochastic gradient push.

  s ← A (v z + u),  v ← A v,  z ← s/v, where the parameters are z, at which the
  gradient is taken. Each worker deals out all that it has, A is
  column-stochastic, and nobody needs to know how many deal to it; s and v go in
  one message.

  >>> import gradiv
  >>> a = np.array([[1/2, 0, 1/2], [1/2, 1/2, 0], [0, 1/2, 1/2]])
  >>> tx = mix_by_push_sum(a, 'workers')
  >>> def run(x):
  ...   def step(carry, _):
  ...     updates, state = tx.update(jnp.zeros(()), carry[1], carry[0])
  ...     return (carry[0] + updates, state), None
  ...   return jax.lax.scan(step, (x, tx.init(x)), None, length=40)[0][0]
  >>> gradiv.map_workers(run, 'workers')(jnp.array([0., 3., 6.])).tolist()
  [3.0, 3.0, 3.0]

  Assran et al., `Stochastic Gradient Push for Distributed Deep Learning
  <https://arxiv.org/abs/1811.10792>`_, 2019.

  Args:
    mixing_matrix: A [n, n], whose columns add up to 1, with something kept by
      each worker; or a sequence that is taken in turn.
    axis_name: The axis over which the workers lie; see `mix`.

  Raises:
    ValueError: On a bad argument; and, while tracing, as `mix_by_gossip`.
  """
  bank = topology.check_columns(mixing_matrix, 'mixing_matrix')
  if bank.diagonal(axis1=1, axis2=2).min() <= 0:
    raise ValueError('mixing_matrix with 0 on its diagonal: each worker must '
                     'keep something, or its weight v is 0')
  if not topology.is_connected(bank):
    raise ValueError('mixing_matrix of a graph that is not strongly connected: '
                     'who hears of nobody is left with a weight v of 0')
  mixing.names_of(axis_name)
  pull = mixing.pull_in_turn(bank, axis_name)

  def init_fn(params):
    dtype = jnp.result_type(jnp.float32, *jax.tree.leaves(params))
    return PushSumState(jnp.zeros((), jnp.int32), jnp.ones((), dtype))

  def update_fn(updates, state, params=None, **extra_args):
    del extra_args
    gossip.check_given(params)
    # In float32 at least, for one message, and since z v is not kept.
    pushed = jax.tree.map(
      lambda z, u: state.weight * trees.widen(z) + u, params, updates)
    held = (pushed, state.weight)
    pushed, weight = jax.tree.map(jnp.add, held, pull(held, state.count))
    moved = jax.tree.map(
      lambda s, z: (s / weight - z).astype(z.dtype), pushed, params)
    return moved, PushSumState(
      optax.safe_increment(state.count), weight.astype(state.weight.dtype))

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
