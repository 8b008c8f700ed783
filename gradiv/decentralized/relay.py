"""RelaySGD: sums that are handed on along a tree, exact after its diameter."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradiv import workers
from gradiv._common import trees
from gradiv.decentralized import gossip, mixing


class RelayState(NamedTuple):
  """State of `mix_by_relay`.

  Attributes:
    count: Steps so far.
    inbox: Of each matching of the tree's edges, what came along: the sum of all
      parameters beyond that edge, each as old as it is far away. As many copies
      of the parameters as the largest degree.
  """

  count: jax.Array
  inbox: tuple[optax.Params, ...]


def mix_by_relay(
  tree: np.ndarray, axis_name: workers.AxisName
) -> optax.GradientTransformationExtraArgs:
  """Average over all workers by sums that are relayed along a tree.

  Each step worker i sends to each neighbour j

    m_ij = x_i + u_i + Σ_{k ≠ j} m_ki,   x ← (x + u + Σ_j m_ji)/n,

  so that each worker averages over all, with those d edges away as of d − 1
  steps ago. There is no bias by data that differ. Costs one permute for each
  matching of the tree's edges, of which there are as many as its largest
  degree, and as many copies of the parameters.

  >>> import gradiv
  >>> from gradiv import topology
  >>> tx = optax.chain(optax.sgd(0.2), mix_by_relay(
  ...     topology.chain(3), 'workers'))
  >>> def run(c):  # a worker's loss is (x − c)²/2
  ...   def step(carry, _):
  ...     x, state = carry
  ...     updates, state = tx.update(x - c, state, x)
  ...     return (optax.apply_updates(x, updates), state), None
  ...   x = jnp.zeros(())
  ...   return jax.lax.scan(step, (x, tx.init(x)), None, length=90)[0][0]
  >>> gradiv.map_workers(run, 'workers')(
  ...     jnp.array([3., 0., 6.])).round(4).tolist()
  [3.0, 3.0, 3.0]

  Vogels et al., `RelaySum for Decentralized Deep Learning on Heterogeneous Data
  <https://arxiv.org/abs/2110.04175>`_, 2021.

  Args:
    tree: Adjacency [n, n] of a tree, such as `topology.chain`. All workers
      start from the same parameters.
    axis_name: The axis over which the workers lie; see `mix`.

  Raises:
    ValueError: On a graph that is not a tree; and, while tracing, as
      `mix_by_gossip`.
  """
  mixing.names_of(axis_name)
  swaps, beyond = _colour(np.asarray(tree))
  n = len(tree)

  def init_fn(params):
    return RelayState(jnp.zeros((), jnp.int32), tuple(
      trees.zeros_wide(params) for _ in swaps))

  def update_fn(updates, state, params=None, **extra_args):
    del extra_args
    gossip.check_given(params)
    if workers.num_workers(axis_name) != n:
      raise ValueError(f'tree of {n} workers: must be of '
                       f'{workers.num_workers(axis_name)}')
    me = jax.lax.axis_index(axis_name)
    wide = trees.widen(params)
    # Before anything came, all were at the common start.
    inbox = [jax.tree.map(
      lambda x, m: jnp.where(
        state.count == 0, jnp.asarray(sizes, x.dtype)[me] * x, m), wide, box)
      for sizes, box in zip(beyond, state.inbox)]
    stepped = jax.tree.map(
      lambda x, u: (x + u).astype(x.dtype), wide, updates)
    add = lambda *trees: jax.tree.map(lambda *x: sum(x[1:], x[0]), *trees)
    total = add(stepped, *inbox)
    arrived = []
    for swap, sizes, box in zip(swaps, beyond, inbox):
      sent = jax.tree.map(jnp.subtract, total, box)
      came = jax.tree.map(jnp.add, sent, mixing.pull(swap, sent, axis_name))
      # Who has no edge here has sent to itself.
      has_edge = jnp.asarray(sizes > 0)[me]
      arrived.append(jax.tree.map(
        lambda x: jnp.where(has_edge, x, jnp.zeros_like(x)), came))
    moved = jax.tree.map(
      lambda x, s: (s / n - x).astype(x.dtype), params, add(stepped, *arrived))
    return moved, RelayState(
      optax.safe_increment(state.count), tuple(arrived))

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _colour(tree):
  """Colour the edges of a tree so that those at a worker differ.

  Returns permutations [n, n], one a colour, and by colour [n] the number of
  workers beyond the edge, 0 where there is none.
  """
  if tree.ndim != 2 or tree.shape[0] != tree.shape[1] or not tree.size:
    raise ValueError(f'tree of shape {tree.shape}: must be [n, n]')
  n = len(tree)
  edges = (tree != 0) & ~np.eye(n, dtype=bool)
  parents, order = {0: None}, [0]
  for v in order:
    for w in np.flatnonzero(edges[v]):
      if w not in parents:
        parents[int(w)] = v
        order.append(int(w))
  if (edges != edges.T).any() or edges.sum() != 2 * (n - 1) or len(order) < n:
    raise ValueError('tree is not the adjacency of a tree: must be symmetric '
                     'and connected, with n - 1 edges')
  sizes = np.ones(n, int)  # of the part below, the worker included
  for v in reversed(order[1:]):
    sizes[parents[v]] += sizes[v]
  colours = int(edges.sum(1).max(initial=0))
  swaps = [np.eye(n) for _ in range(colours)]
  beyond = np.zeros((colours, n), int)
  for v in order[1:]:
    p = parents[v]
    c = next(c for c in range(colours) if not beyond[c, [v, p]].any())
    swaps[c][[v, p]] = swaps[c][[p, v]]
    beyond[c, v], beyond[c, p] = n - sizes[v], sizes[v]
  return swaps, beyond
