"""Graphs of workers, and the weights with which neighbors average."""

from collections.abc import Iterable

import numpy as np

from gradiv._common import checks


def complete(n: int) -> np.ndarray:
  """Average over all workers: W = 11ᵀ/n, an all-reduce."""
  checks.count('n', n, 1)
  return np.full((n, n), 1 / n)


def ring(n: int) -> np.ndarray:
  """Average with the two neighbors on a ring, with weights of 1/3.

  The eigenvalues are (1 + 2 cos 2πk/n)/3, so the spectral gap is about
  4π²/(3n²).

  >>> ring(4)[0].round(2).tolist()
  [0.33, 0.33, 0.0, 0.33]
  """
  checks.count('n', n, 1)
  return circulant(n, (1, -1))


def torus(rows: int, columns: int) -> np.ndarray:
  """Average with the four neighbors on a torus, with weights of 1/5.

  Worker i is in row i // columns.
  """
  checks.count('rows', rows, 1)
  checks.count('columns', columns, 1)
  own = lambda n: np.eye(n)
  turns = lambda n: 3 * circulant(n, (1, -1)) - np.eye(n)
  return (np.eye(rows * columns) + np.kron(turns(rows), own(columns))
          + np.kron(own(rows), turns(columns))) / 5


def hypercube(n: int) -> np.ndarray:
  """Average with the workers whose index differs in one bit, for n = 2^p.

  The eigenvalues are 1 − 2k/(p + 1).
  """
  p = power_of_two(n)
  return sum((exchange(n, 1 << k) for k in range(p)), np.eye(n)) / (p + 1)


def exponential(n: int) -> np.ndarray:
  """Average with the workers at distances 1, 2, 4 ...: a directed graph.

  Ying et al., `Exponential Graph is Provably Efficient for Decentralized Deep
  Training <https://arxiv.org/abs/2110.13363>`_, 2021.
  """
  checks.count('n', n, 1)
  return circulant(n, [1 << k for k in range((n - 1).bit_length())])


def star(n: int) -> np.ndarray:
  """Average with worker 0 in the middle, with weights of 1/n.

  The others keep 1 − 1/n of their own. From three workers on, the spectral gap
  is 1/n.
  """
  checks.count('n', n, 1)
  edges = np.zeros((n, n))
  edges[0, 1:] = edges[1:, 0] = 1 / n
  return edges + np.diag(1 - edges.sum(1))


def circulant(n: int, offsets: Iterable[int]) -> np.ndarray:
  """Average, with equal weights, with the workers at the given offsets.

  Args:
    n: Number of workers.
    offsets: Worker i receives from workers (i + offset) mod n, and from itself.
  """
  checks.count('n', n, 1)
  shifts = [np.roll(np.eye(n), offset, 1) for offset in offsets]
  return (np.eye(n) + sum(shifts, np.zeros((n, n)))) / (1 + len(shifts))


def metropolis(adjacency: np.ndarray) -> np.ndarray:
  """Weight the edges of any undirected graph: 1/(1 + the larger degree).

  >>> metropolis(np.ones((3, 3))).round(2)[0].tolist()
  [0.33, 0.33, 0.33]

  Args:
    adjacency: Symmetric matrix [n, n], nonzero where there is an edge.
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
  """Mix half as strongly: (I + W)/2, with no eigenvalues below 0.

  `mix_by_exact_diffusion` needs this for most graphs.
  """
  return (np.eye(np.shape(w)[-1]) + w) / 2


def hierarchical(between: np.ndarray, within: np.ndarray) -> np.ndarray:
  """Mix within machines and between them: the Kronecker product.

  Args:
    between: Mixing matrix of the machines.
    within: Mixing matrix of the workers of one machine; worker i is on machine
      i // len(within).
  """
  return np.kron(between, within)


def chain(n: int) -> np.ndarray:
  """Connect each worker with the next; return the adjacency matrix of a tree.

  Pass it to `mix_by_relay`, or to `metropolis` for a mixing matrix.
  """
  checks.count('n', n, 1)
  return np.eye(n, k=1) + np.eye(n, k=-1)


def binary_tree(n: int) -> np.ndarray:
  """Connect worker i with its parent, (i − 1) // 2; return the adjacency.

  Pass it to `mix_by_relay`, or to `metropolis` for a mixing matrix.
  """
  checks.count('n', n, 1)
  edges = np.zeros((n, n))
  children = np.arange(1, n)
  edges[children, (children - 1) // 2] = 1
  return edges + edges.T


def power_of_two(n: int) -> int:
  """Return p with n = 2^p; raise ValueError if there is none."""
  checks.count('n', n, 1)
  if n & (n - 1):
    raise ValueError(
      f'n={n!r}: must be a power of two; finite_time accepts any number')
  return n.bit_length() - 1


def exchange(n: int, bit: int) -> np.ndarray:
  """Return the permutation that flips these bits of each worker's index."""
  return np.eye(n)[np.arange(n) ^ bit]
