"""Averages with the neighbours: each worker sends to them, and to nobody else.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradiv import workers
from gradiv._common import compat, trees
from gradiv.decentralized import topology


def mix(tree: Any, mixing_matrix: np.ndarray, axis_name: workers.AxisName) -> Any:
  """Average with the neighbours: x_i ← Σ_k W_ik x_k.

  Costs as many collective-permutes as the graph needs: two on a ring, one for
  a matching; on the complete graph an all-reduce. With several workers on a
  device, ('devices', 'virtual'), only what crosses to another device is sent.

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
  return jax.tree.map(lambda x, d: (x + d).astype(x.dtype), tree,
                      pull(w[0], tree, axis_name))


def names_of(axis_name: workers.AxisName) -> tuple[str, ...]:
  """List the one or two names of an axis to mix along, or raise ValueError."""
  names = workers.names_of(axis_name)
  if len(names) > 2:
    raise ValueError(f'axis_name={axis_name!r}: must be at most two names')
  return names


def pull_in_turn(
  bank: np.ndarray, axis_name: workers.AxisName
) -> Callable[[Any, jax.Array], Any]:
  """Make ``(tree, turn) -> (W_turn − I) tree`` of a sequence [t, n, n].

  All workers are to count alike, and so take the same branch.
  """
  branches = [functools.partial(pull, w, axis_name=axis_name) for w in bank]
  if len(bank) == 1:
    return lambda tree, turn: branches[0](tree)
  return lambda tree, turn: lax.switch(turn % len(bank), branches, tree)


def pull(w: np.ndarray, tree: Any, axis_name: workers.AxisName) -> Any:
  """Compute ((W − I) x)_i, how the others pull at a worker: for any matrix.

  As Σ_k W_ik (x_k − x_i), so that rounding is in proportion to how far apart
  workers are, and nothing moves once they agree (on the complete graph, an
  all-reduce, but for rounding). In at least float32; what is sent keeps its
  dtype.
  """
  names = names_of(axis_name)
  n = workers.num_workers(names)
  if w.shape != (n, n):
    raise ValueError(f'mixing_matrix of shape {w.shape}: must be [{n}, {n}], '
                     f'for {n} workers')
  trees.check_floating(tree, 'tree')
  if np.allclose(w, 1 / n, rtol=0, atol=1e-9):
    return jax.tree.map(
      lambda mean, x: mean - x, mean(tree, names), tree)
  if [compat.is_tracked(name) for name in names] == [True, False]:
    raise ValueError(f'axis_name={axis_name!r}: under shard_map('
                     'check_vma=True) both must be axes of the mesh; let '
                     'gradiv.map_workers do the mapping, or pass '
                     'check_vma=False')
  sizes = [lax.axis_size(name) for name in names] + [1]
  plan = _take_apart(w.reshape(sizes[0], sizes[1], sizes[0], sizes[1]))

  def one(x):
    if len(names) == 1:
      return _apply(plan, x[None], names[0])[0]
    rows = lax.all_gather(x, names[1])  # of one device: nothing is sent
    return _apply(plan, rows, names[0])[lax.axis_index(names[1])]

  # One message for all leaves of a dtype.
  leaves, treedef = jax.tree.flatten(tree)
  pulls = [None] * len(leaves)
  for dtype in dict.fromkeys(x.dtype for x in leaves):
    places = [i for i, x in enumerate(leaves) if x.dtype == dtype]
    flat = one(jnp.concatenate([leaves[i].ravel() for i in places]))
    ends = np.cumsum([leaves[i].size for i in places])
    for i, part in zip(places, jnp.split(flat, ends[:-1])):
      pulls[i] = part.reshape(leaves[i].shape)
  return treedef.unflatten(pulls)


def mean(tree: Any, axis_name: workers.AxisName) -> Any:
  """Average over all workers, in at least float32; of each worker's own."""
  means = jax.tree.map(
    lambda x: lax.pmean(trees.widen(x), axis_name), tree)
  return workers.as_private(means, axis_name)


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
  """Compute the pulls at the rows [local, ...] of this device."""
  own, hops = plan
  me = lax.axis_index(name)
  wide = trees.widen(rows)
  at_me = lambda table: jnp.asarray(table, wide.dtype)[me]
  weigh = _weigh_one if len(rows) == 1 else _weigh_several
  total = weigh(at_me(own - np.eye(own.shape[1])), wide, wide)
  for hop in hops:
    arrived = lax.ppermute(rows[jnp.asarray(hop.rows)[me]], name, hop.pairs)
    total += weigh(at_me(hop.weights), trees.widen(arrived), wide)
  excess = own.sum(2) + sum(hop.weights.sum(2) for hop in hops) - 1
  if np.abs(excess).max() > 1e-6:  # rows that do not add up to 1
    total += at_me(excess).reshape(-1, *(1,) * (wide.ndim - 1)) * wide
  return total


def _weigh_one(weights, arrived, rows):
  """Compute w (x' − x); of no weight, 0, whatever arrived."""
  weight = weights[0, 0]
  return jnp.where(weight == 0, 0, weight * (arrived - rows))


def _weigh_several(weights, arrived, rows):
  """Compute Σ_k w_ik (x'_k − x_i), NaN only where what is bad has a weight.

  As a product with differences from one row of this device, which are small
  where workers agree.
  """
  known = lambda x: jnp.where(jnp.isfinite(x), x, 0)
  dot = functools.partial(jnp.tensordot, axes=1,
                          precision=lax.Precision.HIGHEST)
  origin = known(rows[:1])
  sums = weights.sum(1).reshape(-1, *(1,) * (rows.ndim - 1))
  total = dot(weights, known(arrived) - origin) - sums * (rows - origin)
  bad = dot(jnp.abs(weights), 1 - jnp.isfinite(arrived).astype(rows.dtype))
  return jnp.where(bad > 0, jnp.nan, total)
