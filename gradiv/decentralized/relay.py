"""RelaySGD: sums relayed along a tree, exact after its diameter."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradiv import workers
from gradiv._common import counting, stateful, trees
from gradiv.decentralized import _pulls, _updates


class MixByRelayState(NamedTuple):
  """State of `mix_by_relay`.

  Attributes:
    count: Number of steps so far.
    inbox: For each color of the tree's edges, what arrived over this worker's
      edge of that color: the sum of all parameters beyond it, each as many
      steps old as it is edges away. There are as many copies of the parameters
      as the largest degree.
    num_left_out: How often this worker has left out a neighbor, or an update
      of its own, because it was not finite.
  """

  count: jax.Array
  inbox: tuple[optax.Params, ...]
  num_left_out: jax.Array


def mix_by_relay(
  tree: np.ndarray, axis_name: workers.AxisName
) -> optax.GradientTransformationExtraArgs:
  """Average over all workers by relaying sums along a tree: RelaySGD.

  Use it when the workers' data differ and the graph is, or contains, a tree.
  Each worker i sends to each neighbor j

    m_ij = x_i + u_i + Σ_{k ≠ j} m_ki,   x ← (x + u + Σ_j m_ji)/n

  and so averages over all workers, with those d edges away as they were d − 1
  steps ago. Data that differ cause no bias. The cost is one permute, and one
  copy of the parameters, per color of the tree's edges; there are as many
  colors as the largest degree, two on a chain.

  >>> import gradiv
  >>> from gradiv import topology
  >>> tx = optax.chain(optax.sgd(0.2), mix_by_relay(
  ...     topology.chain(3), 'workers'))
  >>> def run(c):  # The loss of a worker is (x − c)²/2.
  ...   def step(carry, _):
  ...     x, state = carry
  ...     updates, state = tx.update(x - c, state, x)
  ...     return (optax.apply_updates(x, updates), state), None
  ...   x = jnp.zeros(())
  ...   return jax.lax.scan(step, (x, tx.init(x)), None, length=90)[0][0]
  >>> gradiv.map_workers(run, 'workers')(
  ...     jnp.array([3., 0., 6.])).round(4).tolist()  # the mean of c
  [3.0, 3.0, 3.0]

  Vogels et al., `RelaySum for Decentralized Deep Learning on Heterogeneous Data
  <https://arxiv.org/abs/2110.04175>`_, 2021.

  Args:
    tree: Adjacency matrix [n, n] of a tree, such as `topology.chain`. All
      workers must start from the same parameters.
    axis_name: The axis of the workers; see `mix`.

  Raises:
    ValueError: If the graph is not a tree; and, while tracing, as for
      `mix_by_gossip`.
  """
  _pulls.names_of(axis_name)
  swaps, beyond = _color_edges(np.asarray(tree))
  n = len(tree)

  def init_fn(params):
    return MixByRelayState(jnp.zeros((), jnp.int32), tuple(
      trees.zeros_wide(params) for _ in swaps), jnp.zeros((), jnp.int32))

  def update_fn(updates, state, params=None, **extra_args):
    del extra_args
    _updates.check_given(params, updates)
    if workers.num_workers(axis_name) != n:
      raise ValueError(f'tree has {n} workers: must have '
                       f'{workers.num_workers(axis_name)}')
    me = jax.lax.axis_index(axis_name)
    wide = trees.widen(params)
    for color, box in enumerate(state.inbox):
      stateful.check_like(f'inbox[{color}]', box, updates)
    # Before anything has arrived, all workers are at the common start.
    inbox = [jax.tree.map(
      lambda x, m: jnp.where(
        state.count == 0, jnp.asarray(sizes, x.dtype)[me] * x, m), wide, box)
      for sizes, box in zip(beyond, state.inbox)]
    stepped, left_out = _updates.add_finite(axis_name, (wide,), updates)
    total = _sum(stepped, inbox)
    arrived = []
    for swap, sizes, box in zip(swaps, beyond, inbox):
      sent = jax.tree.map(jnp.subtract, total, box)
      pulled = _pulls.pull(swap, sent, axis_name)
      came = jax.tree.map(jnp.add, sent, pulled.pull)
      # What came last stands in for what is not finite.
      came = trees.select(pulled.num_left_out == 0, came, box)
      left_out += pulled.num_left_out
      # A worker without an edge of this color has sent to itself.
      arrived.append(trees.keep_if(jnp.asarray(sizes > 0)[me], came))
    moved = jax.tree.map(lambda x, s: (s / n - x).astype(x.dtype), params,
                         _sum(stepped, arrived))
    return moved, MixByRelayState(
      counting.increment(state.count), tuple(arrived),
      counting.increment(state.num_left_out, left_out))

  return stateful.transformation(init_fn, update_fn, MixByRelayState)


def _sum(tree, others):
  return jax.tree.map(lambda *x: sum(x[1:], x[0]), tree, *others)


def _color_edges(tree):
  """Color the edges of a tree so that those of a worker all differ.

  Args:
    tree: Adjacency matrix [n, n].

  Returns:
    For each color, a permutation [n, n] that swaps the two ends of its edges;
    and [colors, n], the number of workers beyond a worker's edge of that color,
    0 if it has none.
  """
  edges, parents, order = _walk(tree)
  n = len(tree)
  sizes = np.ones(n, int)  # of the subtree below a worker, itself included
  for v in reversed(order[1:]):
    sizes[parents[v]] += sizes[v]
  num_colors = int(edges.sum(1).max(initial=0))
  swaps = [np.eye(n) for _ in range(num_colors)]
  beyond = np.zeros((num_colors, n), int)
  for v in order[1:]:
    p = parents[v]
    c = next(c for c in range(num_colors) if not beyond[c, [v, p]].any())
    swaps[c][[v, p]] = swaps[c][[p, v]]
    beyond[c, v], beyond[c, p] = n - sizes[v], sizes[v]
  return swaps, beyond


def _walk(tree):
  """Return the edges, and each worker's parent, in breadth-first order."""
  if tree.ndim != 2 or tree.shape[0] != tree.shape[1] or not tree.size:
    raise ValueError(f'tree of shape {tree.shape}: must be [n, n]')
  n = len(tree)
  edges = (tree != 0) & ~np.eye(n, dtype=bool)
  parents, order = {0: 0}, [0]  # The root is its own parent.
  for v in order:
    for w in np.flatnonzero(edges[v]):
      if w not in parents:
        parents[int(w)] = v
        order.append(int(w))
  if (edges != edges.T).any() or edges.sum() != 2 * (n - 1) or len(order) < n:
    raise ValueError('tree is not the adjacency matrix of a tree: must be '
                     'symmetric and connected, with n - 1 edges')
  return edges, parents, order
