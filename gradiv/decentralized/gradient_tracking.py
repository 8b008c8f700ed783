"""Gradient tracking: each worker follows the mean gradient of all."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradiv import workers
from gradiv._common import counting, stateful, trees
from gradiv.decentralized import _pulls, _updates, topology


class MixByGradientTrackingState(NamedTuple):
  """State of `mix_by_gradient_tracking`.

  Attributes:
    count: Number of steps so far.
    offset: W y − g, added to the next gradient; the sum of all pulls so far.
    num_left_out: How often this worker has left out a neighbor, or a gradient
      of its own, because it was not finite.
  """

  count: jax.Array
  offset: optax.Updates
  num_left_out: jax.Array


def mix_by_gradient_tracking(
  mixing_matrix: np.ndarray | Sequence[np.ndarray],
  axis_name: workers.AxisName,
) -> optax.GradientTransformationExtraArgs:
  """Replace each worker's gradient by one that tracks the mean gradient.

  Use it when the workers' data differ and the graph is directed or changes from
  step to step, or when the optimizer is adaptive. It goes where the gradient
  enters the chain, so that everything behind it sees y, and a mixing of the
  parameters goes last. This sends twice what `mix_by_gossip` sends alone.

    y_t = W y_{t−1} + g_t − g_{t−1},  y_0 = g_0

  The mean of y over the workers is always the mean of g, where a gradient that
  is not finite counts as zero; its worker then returns zeros. As a chain,

    optax.chain(mix_by_gradient_tracking(w, axis), optax.sgd(α),
                mix_by_gossip(w, axis))

  is X ← W X − α Y. With a column-stochastic matrix, and `mix_by_push_sum` in
  place of `mix_by_gossip`, it is Push-DIGing, for directed graphs.

  >>> tx = mix_by_gradient_tracking(topology.complete(2), 'workers')
  >>> def run(g):
  ...   y, state = tx.update(g, tx.init(g))
  ...   return y, tx.update(g, state)[0]
  >>> first, second = jax.vmap(run, axis_name='workers')(jnp.array([1., 5.]))
  >>> first.tolist(), second.tolist()  # its own gradient, then the mean
  ([1.0, 5.0], [3.0, 3.0])

  Nedić et al., `Achieving Geometric Convergence for Distributed Optimization
  over Time-Varying Graphs <https://arxiv.org/abs/1607.03218>`_, 2016.

  Args:
    mixing_matrix: W [n, n], or a sequence that is used in turn; columns must
      sum to 1.
    axis_name: The axis of the workers; see `mix`.

  Raises:
    ValueError: While tracing, if the matrix is not of the size of the axis.
  """
  bank = topology.check_columns(mixing_matrix, 'mixing_matrix')
  pull = _pulls.pull_in_turn(bank, axis_name)

  def init_fn(params):
    return MixByGradientTrackingState(
      jnp.zeros((), jnp.int32), trees.zeros_wide(params),
      jnp.zeros((), jnp.int32))

  def update_fn(updates, state, params=None, **extra_args):
    del params, extra_args
    # At least float32, in the messages too: rounding errors of y accumulate.
    trees.check_floating(updates)
    tracked, without = _updates.add_finite(axis_name, (state.offset,), updates)
    pulled = pull(tracked, state.count)
    offset = _updates.add(state.offset, pulled.pull)
    followed = trees.keep_if(without == 0, tracked)
    return optax.tree.cast_like(followed, updates), MixByGradientTrackingState(
      counting.increment(state.count), offset, counting.increment(
        state.num_left_out, without + pulled.num_left_out))

  return stateful.transformation(
    init_fn, update_fn, MixByGradientTrackingState, like_params=('offset',))
