"""Split a mixing matrix into collective-permutes, on the host.

In a collective-permute every device sends one message and receives one. The
edges between devices are therefore colored so that no two edges of one color
share a source or a destination: each color becomes one permute, called a hop.
"""

from typing import NamedTuple

import numpy as np


class Hop(NamedTuple):
  """One collective-permute.

  Attributes:
    pairs: (source, destination) of every device. A device with nothing to send
      sends to itself, or sends rows that get no weight.
    rows: [devices, m], the rows that each source sends.
    weights: [devices, local, m], the weights of the rows that arrive, by
      destination.
  """

  pairs: tuple[tuple[int, int], ...]
  rows: np.ndarray
  weights: np.ndarray


class Plan(NamedTuple):
  """A mixing matrix, split into weights within devices and permutes.

  Attributes:
    own: [devices, local, local], the weights among one device's own workers.
    hops: The permutes, as many as the largest number of neighbors.
  """

  own: np.ndarray
  hops: list[Hop]

  @property
  def excess(self) -> np.ndarray:
    """Sums of the rows of W, minus 1: [devices, local]."""
    return self.own.sum(2) + sum(h.weights.sum(2) for h in self.hops) - 1


def make_plan(blocks: np.ndarray) -> Plan:
  """Split W, given as [devices, local, devices, local], into a plan."""
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
    hops.append(Hop(_complete(pairs, devices), rows, weights))
  return Plan(own, hops)


def _complete(pairs, n):
  """Extend a matching to a permutation of all devices, as vmap requires.

  A device that neither sends nor receives is paired with itself. One that only
  lacks a source is paired with one that only lacks a destination; the message
  between them gets no weight.
  """
  sources, destinations = ({*range(n)} - {*side} for side in zip(*pairs))
  both = sources & destinations
  idle = zip(sorted(sources - both), sorted(destinations - both))
  return (*pairs, *((i, i) for i in sorted(both)), *idle)


def _matchings(edges, n):
  """Color directed edges with as many colors as the largest degree.

  On circulant graphs (ring, exponential graph) the offset d − s is such a
  coloring, and keeps permutes regular. Other graphs need alternating paths.
  """
  degree = max([*np.bincount([s for s, _ in edges], minlength=1),
                *np.bincount([d for _, d in edges], minlength=1)])
  by_offset = {}
  for s, d in edges:
    by_offset.setdefault((d - s) % n, []).append((s, d))
  if len(by_offset) <= degree:
    return list(by_offset.values())
  return _color_by_alternating_paths(edges, degree)


def _color_by_alternating_paths(edges, degree):
  """Color the edges of a bipartite graph one after the other (König)."""
  at_source, at_dest = {}, {}  # (vertex, color) -> vertex at the other end
  free = lambda table, v: next(
    c for c in range(degree) if (v, c) not in table)
  for s, d in edges:
    a, b = free(at_source, s), free(at_dest, d)
    if a != b:
      _swap_colors(at_source, at_dest, d, a, b)
    at_source[s, a], at_dest[d, a] = d, s
  colors = {}
  for (s, c), d in at_source.items():
    colors.setdefault(c, []).append((s, d))
  return list(colors.values())


def _swap_colors(at_source, at_dest, start, a, b):
  """Swap the colors a and b along the path that leaves `start` by color a."""
  path, vertex, at, color = [], start, at_dest, a
  while (vertex, color) in at:
    other = at[vertex, color]
    path.append((other, vertex, color) if at is at_dest
                else (vertex, other, color))
    vertex, at = other, at_source if at is at_dest else at_dest
    color = b if color == a else a
  for u, v, c in path:
    del at_source[u, c], at_dest[v, c]
  for u, v, c in path:
    c = b if c == a else a
    at_source[u, c], at_dest[v, c] = v, u
