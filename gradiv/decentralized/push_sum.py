"""Push-sum: averages on directed graphs, where rows need not sum to 1."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradiv import workers
from gradiv._common import counting, stateful, trees
from gradiv.decentralized import _pulls, _updates, topology


class MixByPushSumState(NamedTuple):
  """State of `mix_by_push_sum`.

  Attributes:
    count: Number of steps so far.
    weight: v, this worker's part of the total weight n; initially 1.
    num_left_out: How often this worker has left out a neighbor, or an update
      of its own, because it was not finite.
  """

  count: jax.Array
  weight: jax.Array
  num_left_out: jax.Array


def mix_by_push_sum(
  mixing_matrix: np.ndarray | Sequence[np.ndarray],
  axis_name: workers.AxisName,
) -> optax.GradientTransformationExtraArgs:
  """Mix on directed graphs: push-sum, or stochastic gradient push.

  Use it in place of `mix_by_gossip` when no doubly stochastic matrix fits the
  graph. A sender only decides how to split what it has among its receivers, so
  the columns of A sum to 1, but the rows need not. A second number, the weight
  v, is split in the same way, and dividing by it removes the imbalance:

    s ← A (v z + u),  v ← A v,  z ← s/v

  with the parameters z, at which the gradient is taken. Both travel in one
  message.

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

  Without gradients, all workers end at the mean.

  Assran et al., `Stochastic Gradient Push for Distributed Deep Learning
  <https://arxiv.org/abs/1811.10792>`_, 2019.

  Args:
    mixing_matrix: A [n, n], with columns that sum to 1 and a positive diagonal,
      or a sequence that is used in turn.
    axis_name: The axis of the workers; see `mix`.

  Raises:
    ValueError: If the graph is not strongly connected; and, while tracing, as
      for `mix_by_gossip`.
  """
  bank = topology.check_columns(mixing_matrix, 'mixing_matrix')
  if bank.diagonal(axis1=1, axis2=2).min() <= 0:
    raise ValueError('mixing_matrix has a 0 on its diagonal: each worker must '
                     'keep something, or its weight may become 0')
  if not topology.is_connected(bank):
    raise ValueError('mixing_matrix is not that of a strongly connected graph: '
                     'the weight of a worker that receives nothing becomes 0')
  pull = _pulls.pull_in_turn(bank, axis_name)

  def init_fn(params):
    dtypes = [x.dtype for x in jax.tree.leaves(params)]
    return MixByPushSumState(
      jnp.zeros((), jnp.int32), jnp.ones(
        (), jnp.result_type(jnp.float32, *dtypes)), jnp.zeros((), jnp.int32))

  def update_fn(updates, state, params=None, **extra_args):
    del extra_args
    _updates.check_given(params, updates)
    # At least float32: one message with the weight, and v z is not stored.
    own = jax.tree.map(lambda z: state.weight * trees.widen(z), params)
    pushed, without = _updates.add_finite(axis_name, (own,), updates)
    held = (pushed, state.weight)
    pulled = pull(held, state.count)
    pushed, weight = jax.tree.map(jnp.add, held, pulled.pull)
    moved = jax.tree.map(
      lambda s, z: (s / weight - z).astype(z.dtype), pushed, params)
    return moved, MixByPushSumState(
      counting.increment(state.count), weight.astype(state.weight.dtype),
      counting.increment(
        state.num_left_out, without + pulled.num_left_out))

  return stateful.transformation(init_fn, update_fn, MixByPushSumState)
