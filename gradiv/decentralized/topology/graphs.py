"""Graphs of workers, and the weights by which neighbours average."""

from collections.abc import Iterable

import numpy as np

from gradiv._common import checks


def complete(n: int) -> np.ndarray:
  """Average over all workers: W = 11ᵀ/n, an all-reduce."""
  checks.count('n', n, 1)
  return np.full((n, n), 1 / n)


def ring(n: int) -> np.ndarray:
  """Average with the two neighbours on a ring, 1/3 each.

  Eigenvalues (1 + 2 cos 2πk/n)/3, so that the gap falls as 4π²/(3n²).

  >>> ring(4)[0].round(2).tolist()
  [0.33, 0.33, 0.0, 0.33]
  """
  checks.count('n', n, 1)
  return circulant(n, (1, -1))


def torus(rows: int, columns: int) -> np.ndarray:
  """Average with the four neighbours on a torus, 1/5 each.

  Worker i stands in row i // columns.
  """
  checks.count('rows', rows, 1)
  checks.count('columns', columns, 1)
  own = lambda n: np.eye(n)
  turns = lambda n: 3 * circulant(n, (1, -1)) - np.eye(n)
  return (np.eye(rows * columns) + np.kron(turns(rows), own(columns))
          + np.kron(own(rows), turns(columns))) / 5


def hypercube(n: int) -> np.ndarray:
  """Average with the workers whose index differs in one bit, n = 2^p.

  Eigenvalues 1 − 2k/(p + 1).
  """
  p = power_of_two(n)
  return sum((exchange(n, 1 << k) for k in range(p)), np.eye(n)) / (p + 1)


def exponential(n: int) -> np.ndarray:
  """Average with the workers 1, 2, 4 ... places on: a directed graph.

  Ying et al., `Exponential Graph is Provably Efficient for Decentralized Deep
  Training <https://arxiv.org/abs/2110.13363>`_, 2021.
  """
  checks.count('n', n, 1)
  return circulant(n, [1 << k for k in range((n - 1).bit_length())])


def star(n: int) -> np.ndarray:
  """Average with worker 0 in the middle, 1/n each; the rest each keeps.

  The gap is 1/n, of three workers or more.
  """
  checks.count('n', n, 1)
  edges = np.zeros((n, n))
  edges[0, 1:] = edges[1:, 0] = 1 / n
  return edges + np.diag(1 - edges.sum(1))


def circulant(n: int, offsets: Iterable[int]) -> np.ndarray:
  """Average with the workers so many places on, and oneself, evenly."""
  checks.count('n', n, 1)
  shifts = [np.roll(np.eye(n), offset, 1) for offset in offsets]
  return (np.eye(n) + sum(shifts, np.zeros((n, n)))) / (1 + len(shifts))


def metropolis(adjacency: np.ndarray) -> np.ndarray:
  """Weigh the edges of any undirected graph: 1/(1 + max of the degrees).

  >>> metropolis(np.ones((3, 3))).round(2)[0].tolist()
  [0.33, 0.33, 0.33]

  Raises:
    ValueError: Where the matrix is not square and symmetric.
  """
  edges = np.asarray(adjacency, bool)
  if edges.ndim != 2 or not np.array_equal(edges, edges.T):
    raise ValueError(f'adjacency of shape {edges.shape}: must be square and '
                     'symmetric')
  edges = edges & ~np.eye(len(edges), dtype=bool)
  degrees = edges.sum(1)
  weights = edges / (1 + np.maximum(degrees[:, None], degrees[None, :]))
  return weights + np.diag(1 - weights.sum(1))


def lazy(w: np.ndarray) -> np.ndarray:
  """Keep half of oneself: (I + W)/2, whose eigenvalues are not negative."""
  return (np.eye(np.shape(w)[-1]) + w) / 2


def hierarchical(between: np.ndarray, within: np.ndarray) -> np.ndarray:
  """Mix within machines, and machines with each other: the Kronecker product.

  Worker i stands on machine i // len(within).
  """
  return np.kron(between, within)


def chain(n: int) -> np.ndarray:
  """Connect each worker with the next: the adjacency of a tree.

  For `metropolis`, and for `mix_by_relay`.
  """
  checks.count('n', n, 1)
  return np.eye(n, k=1) + np.eye(n, k=-1)


def binary_tree(n: int) -> np.ndarray:
  """Connect worker i with (i − 1) // 2, its parent: the adjacency of a tree."""
  checks.count('n', n, 1)
  edges = np.zeros((n, n))
  children = np.arange(1, n)
  edges[children, (children - 1) // 2] = 1
  return edges + edges.T


def power_of_two(n: int) -> int:
  """Return p of n = 2^p, or raise ValueError."""
  checks.count('n', n, 1)
  if n & (n - 1):
    raise ValueError(f'n={n!r}: must be a power of two; finite_time takes any')
  return n.bit_length() - 1


def exchange(n: int, bit: int) -> np.ndarray:
  """Permute workers whose index differs in these bits."""
  return np.eye(n)[np.arange(n) ^ bit]
