"""Workers with parameters of their own, which average with their neighbours.

`mix` computes Σ_k W_ik x_k by permutations: each worker sends to its
neighbours and to nobody else. `mix_by_gossip` makes a step of decentralised
SGD of it, for parameters that are private to each worker.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from gradiv import axes, checks, moments, topology

ORDERS = ('awc', 'atc', 'cta')


def mix(tree: Any, mixing_matrix: np.ndarray, axis_name: axes.AxisName) -> Any:
  """Average with the neighbours: x_i ← Σ_k W_ik x_k.

  Costs as many collective-permutes as the graph needs: two on a ring, one for
  a matching. With several workers on a device, ('devices', 'virtual'), only
  what crosses to another device is sent.

  >>> w = topology.ring(4)
  >>> jax.vmap(lambda x: mix(x, w, 'workers'), axis_name='workers')(
  ...     jnp.array([3., 0., 0., 0.])).round(5).tolist()
  [1.0, 1.0, 0.0, 1.0]

  Args:
    tree: This worker's; of floating leaves.
    mixing_matrix: W [n, n], doubly stochastic.
    axis_name: The axis over which the workers lie; of two names, the last is
      that of the workers within a device.

  Raises:
    ValueError: On a matrix that is not doubly stochastic, or not of as many
      workers as there are; and on more than two names.
  """
  w = topology.check(mixing_matrix, 'mixing_matrix')
  if len(w) != 1:
    raise ValueError(f'mixing_matrix of shape {w.shape}: must be [n, n]; '
                     'mix_by_gossip takes a sequence')
  return _mix(tree, w[0], axis_name)


def _mix(tree, w, axis_name):
  names = axes.names_of(axis_name)
  n = axes.num_workers(names)
  if len(names) > 2:
    raise ValueError(f'axis_name={axis_name!r}: must be at most two names')
  if w.shape != (n, n):
    raise ValueError(f'mixing_matrix of shape {w.shape}: must be [{n}, {n}], '
                     f'for {n} workers')
  moments.check_floating(tree, 'tree')
  sizes = [lax.axis_size(name) for name in names] + [1]
  plan = _take_apart(w.reshape(sizes[0], sizes[1], sizes[0], sizes[1]))

  def one(x):
    if len(names) == 1:
      return _apply(plan, x[None], names[0])[0]
    rows = lax.all_gather(x, names[1])  # of one device: nothing is sent
    return _apply(plan, rows, names[0])[lax.axis_index(names[1])]

  # One message for all leaves of a dtype.
  leaves, treedef = jax.tree.flatten(tree)
  mixed = [None] * len(leaves)
  for dtype in dict.fromkeys(x.dtype for x in leaves):
    places = [i for i, x in enumerate(leaves) if x.dtype == dtype]
    flat = one(jnp.concatenate([leaves[i].ravel() for i in places]))
    ends = np.cumsum([leaves[i].size for i in places])
    for i, part in zip(places, jnp.split(flat, ends[:-1])):
      mixed[i] = part.reshape(leaves[i].shape)
  return treedef.unflatten(mixed)


class _Hop(NamedTuple):
  """What crosses in one permute.

  Attributes:
    pairs: (source, destination) of each device; some send to themselves, or
      what has no weight.
    rows: [devices, m], which of its rows each source sends.
    weights: [devices, local, m], of what arrives, by destination.
  """

  pairs: tuple[tuple[int, int], ...]
  rows: np.ndarray
  weights: np.ndarray


def _take_apart(blocks) -> tuple[np.ndarray, list[_Hop]]:
  """Take W [devices, local, devices, local] apart: own blocks, and hops."""
  devices, local = blocks.shape[:2]
  own = np.stack([blocks[d, :, d] for d in range(devices)])
  crossing = np.abs(blocks).sum((1, 3)) > 0  # [destination, source]
  edges = [(int(s), int(d)) for d, s in zip(*np.nonzero(crossing)) if s != d]
  hops = []
  for pairs in _matchings(edges, devices):
    needed = {s: np.flatnonzero(np.abs(blocks[d, :, s]).sum(0))
              for s, d in pairs}
    m = max(map(len, needed.values()))
    rows = np.zeros((devices, m), np.int32)
    weights = np.zeros((devices, local, m))
    for s, d in pairs:
      rows[s, :len(needed[s])] = needed[s]
      weights[d, :, :len(needed[s])] = blocks[d, :, s][:, needed[s]]
    hops.append(_Hop(_complete(pairs, devices), rows, weights))
  return own, hops


def _complete(pairs, n):
  """Make a permutation of a matching, as vmap wants it.

  Who is idle sends to itself; who is idle on one side alone, to another such:
  what arrives there has no weight.
  """
  sources, destinations = ({*range(n)} - {*side} for side in zip(*pairs))
  both = sources & destinations
  idle = zip(sorted(sources - both), sorted(destinations - both))
  return (*pairs, *((i, i) for i in sorted(both)), *idle)


def _matchings(edges, n):
  """Colour directed edges so that none share a source or a destination.

  As many colours as the largest degree: by offset where that is enough, as on
  circulant graphs, else along alternating paths (König).
  """
  degree = max([*np.bincount([s for s, _ in edges], minlength=1),
                *np.bincount([d for _, d in edges], minlength=1)])
  by_offset = {}
  for s, d in edges:
    by_offset.setdefault((d - s) % n, []).append((s, d))
  if len(by_offset) <= degree:
    return list(by_offset.values())
  at_source, at_dest = ({} for _ in range(2))  # (vertex, colour) -> other end
  free = lambda table, v: next(
    c for c in range(degree) if (v, c) not in table)
  for s, d in edges:
    a, b = free(at_source, s), free(at_dest, d)
    if a != b:
      # Swap the colours a and b along the path that leaves d by a.
      path, vertex, at, colour = [], d, at_dest, a
      while (vertex, colour) in at:
        other = at[vertex, colour]
        path.append((other, vertex, colour) if at is at_dest
                    else (vertex, other, colour))
        vertex, at = other, at_source if at is at_dest else at_dest
        colour = b if colour == a else a
      for u, v, c in path:
        del at_source[u, c], at_dest[v, c]
      for u, v, c in path:
        c = b if c == a else a
        at_source[u, c], at_dest[v, c] = v, u
    at_source[s, a], at_dest[d, a] = d, s
  colours = {}
  for (s, c), d in at_source.items():
    colours.setdefault(c, []).append((s, d))
  return list(colours.values())


def _apply(plan, rows, name):
  """Mix the rows [local, ...] of this device with those of others."""
  own, hops = plan
  me = lax.axis_index(name)
  wide = moments.widen(rows)
  weigh = lambda weights, x: jnp.tensordot(
    jnp.asarray(weights, wide.dtype)[me], x, 1,
    precision=lax.Precision.HIGHEST)
  total = weigh(own, wide)
  for hop in hops:
    arrived = lax.ppermute(rows[jnp.asarray(hop.rows)[me]], name, hop.pairs)
    total += weigh(hop.weights, moments.widen(arrived))
  return total.astype(rows.dtype)


class MixByGossipState(NamedTuple):
  """State of `mix_by_gossip`.

  Attributes:
    count: Steps so far, whose turn in the sequence it is.
  """

  count: jax.Array


def mix_by_gossip(
  mixing_matrix: np.ndarray | Sequence[np.ndarray],
  axis_name: axes.AxisName,
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
  mean of u.

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
  axes.names_of(axis_name)
  checks.choice('order', order, ORDERS)

  def init_fn(params):
    del params
    return MixByGossipState(jnp.zeros((), jnp.int32))

  def mix_in_turn(tree, turn):
    branches = [functools.partial(_mix, w=w, axis_name=axis_name)
                for w in bank]
    if len(bank) == 1:
      return branches[0](tree)
    # All workers count alike, and take the same branch.
    return lax.switch(turn % len(bank), branches, tree)

  def update_fn(updates, state, params=None, **extra_args):
    del extra_args
    if params is None:
      raise ValueError('params=None: must be given, as they are mixed')
    if order == 'awc':
      mixed = mix_in_turn(params, state.count)
      result = jax.tree.map(
        lambda u, m, x: u + (m - x), updates, mixed, params)
    else:
      stepped = jax.tree.map(lambda x, u: x + u, params, updates)
      mixed = mix_in_turn(stepped, state.count + (order == 'cta'))
      result = jax.tree.map(lambda m, x: m - x, mixed, params)
    return result, MixByGossipState(optax.safe_increment(state.count))

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def consensus_distance(params: Any, axis_name: axes.AxisName) -> jax.Array:
  """Compute (1/n) Σ ‖x_i − x̄‖², how far workers are from their mean.

  Costs an all-reduce of the parameters: look now and then.

  >>> jax.vmap(lambda x: consensus_distance(x, 'workers'),
  ...          axis_name='workers')(jnp.array([1., 3.])).tolist()
  [1.0, 1.0]
  """
  names = axes.names_of(axis_name)
  wide = jax.tree.map(moments.widen, params)
  own = [moments.sq_norm(x - lax.pmean(x, names))
         for x in jax.tree.leaves(wide)]
  return lax.pmean(sum(own, jnp.float32(0)), names)
