"""Average parameters with the neighbors, and see how far workers are apart."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradiv import workers
from gradiv._common import trees
from gradiv.decentralized import _pulls, topology


def mix(
  tree: Any, mixing_matrix: np.ndarray, axis_name: workers.AxisName
) -> Any:
  """Average a tree with the neighbors: x_i ← Σ_k W_ik x_k.

  Use it to mix something other than the parameters of an optimizer, such as
  batch statistics; for training, see `mix_by_gossip`. The cost is one
  collective-permute per neighbor (two on a ring, one for a matching), and one
  all-reduce on the complete graph. With several workers per device, only the
  rows that cross to another device are sent.

  >>> w = topology.ring(4)
  >>> jax.vmap(lambda x: mix(x, w, 'workers'), axis_name='workers')(
  ...     jnp.array([3., 0., 0., 0.])).round(5).tolist()
  [1.0, 1.0, 0.0, 1.0]

  Worker 2 is not a neighbor of worker 0, and hears nothing of its 3.

  A neighbor whose tree is not finite is left out, as in all mixing steps; see
  the package.

  Args:
    tree: This worker's tree of floating-point arrays.
    mixing_matrix: W [n, n], doubly stochastic.
    axis_name: The axis of the workers. With two names, such as ('devices',
      'virtual'), the last is that of the workers on one device.

  Raises:
    ValueError: While tracing, if the matrix is not of the size of the axis.
  """
  w = topology.check(mixing_matrix, 'mixing_matrix')
  if len(w) != 1:
    raise ValueError(f'mixing_matrix of shape {w.shape}: must be [n, n]; '
                     'mix_by_gossip accepts a sequence')
  return jax.tree.map(lambda x, d: (x + d).astype(x.dtype), tree,
                      _pulls.pull(w[0], tree, axis_name).pull)


def consensus_distance(params: Any, axis_name: workers.AxisName) -> jax.Array:
  """Compute how far the workers are from their mean: (1/n) Σ ‖x_i − x̄‖².

  This costs an all-reduce of the parameters, so call it only now and then.

  >>> jax.vmap(lambda x: consensus_distance(x, 'workers'),
  ...          axis_name='workers')(jnp.array([1., 3.])).tolist()
  [1.0, 1.0]

  Args:
    params: This worker's parameters.
    axis_name: The axis, or axes, of the workers.

  Returns:
    The distance, the same on all workers.
  """
  names = workers.bound_names(axis_name)
  wide = trees.widen(params)
  own = [trees.sq_norm(x - lax.pmean(x, names))
         for x in jax.tree.leaves(wide)]
  return lax.pmean(sum(own, jnp.float32(0)), names)
