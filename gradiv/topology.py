"""Who averages with whom: mixing matrices, and what their spectra promise.

A mixing matrix W [n, n] is doubly stochastic: worker i takes Σ_k W_ik x_k, and
the mean of the workers stays. A sequence [t, n, n] is taken in turn. All is
NumPy, on the host: a topology is known before a program is compiled.
"""

import functools
from collections.abc import Iterable, Sequence

import numpy as np

from gradiv import checks


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
  p = _log2(n)
  return sum((_exchange(n, 1 << k) for k in range(p)), np.eye(n)) / (p + 1)


def exponential(n: int) -> np.ndarray:
  """Average with the workers 1, 2, 4 ... places on: a directed graph.

  Ying et al., `Exponential Graph is Provably Efficient for Decentralized Deep
  Training <https://arxiv.org/abs/2110.13363>`_, 2021.
  """
  checks.count('n', n, 1)
  return circulant(n, [1 << k for k in range((n - 1).bit_length())])


def star(n: int) -> np.ndarray:
  """Average with worker 0 in the middle, 1/n each; the rest each keeps.

  The gap is 1/n.
  """
  checks.count('n', n, 1)
  edges = np.zeros((n, n))
  edges[0, 1:] = edges[1:, 0] = 1 / n
  return edges + np.diag(1 - edges.sum(1))


def circulant(n: int, offsets: Iterable[int]) -> np.ndarray:
  """Average with the workers so many places on, and oneself, evenly."""
  shifts = [np.roll(np.eye(n), offset, 1) for offset in offsets]
  return (np.eye(n) + sum(shifts, np.zeros((n, n)))) / (1 + len(shifts))


def metropolis(adjacency: np.ndarray) -> np.ndarray:
  """Weigh the edges of any undirected graph: 1/(1 + max of the degrees).

  >>> metropolis(np.ones((3, 3))).round(2)[0].tolist()
  [0.33, 0.33, 0.33]

  Raises:
    ValueError: Where the matrix is not square and symmetric.
  """
  edges = np.asarray(adjacency, bool) & ~np.eye(len(adjacency), dtype=bool)
  if edges.ndim != 2 or not np.array_equal(edges, edges.T):
    raise ValueError(f'adjacency of shape {edges.shape}: must be square and '
                     'symmetric')
  degrees = edges.sum(1)
  weights = edges / (1 + np.maximum(degrees[:, None], degrees[None, :]))
  return weights + np.diag(1 - weights.sum(1))


def lazy(w: np.ndarray) -> np.ndarray:
  """Keep half of oneself: (I + W)/2, whose eigenvalues are not negative."""
  return (np.eye(w.shape[-1]) + w) / 2


def hierarchical(between: np.ndarray, within: np.ndarray) -> np.ndarray:
  """Mix within machines, and machines with each other: the Kronecker product.

  Worker i stands on machine i // len(within).
  """
  return np.kron(between, within)


def one_peer_exponential(n: int) -> np.ndarray:
  """Average with the one worker 2^t places on, t in turn: [p, n, n], n = 2^p.

  After p steps all workers hold the mean, exactly.
  """
  return np.stack([circulant(n, (1 << t,)) for t in range(max(_log2(n), 1))])


def one_peer_hypercube(n: int) -> np.ndarray:
  """Exchange with the worker whose bit t differs, t in turn: [p, n, n].

  Exact after p steps, as `one_peer_exponential`, and symmetric.
  """
  return np.stack([(np.eye(n) + _exchange(n, 1 << t if n > 1 else 0)) / 2
                   for t in range(max(_log2(n), 1))])


def finite_time(n: int, max_degree: int = 1) -> np.ndarray:
  """Average exactly after O(log n) steps, for any n: [t, n, n].

  With groups of at most k + 1 = `max_degree` + 1 workers a step. The first m,
  the largest a (k + 1)^p with a ≤ k, reach their mean digit by digit, the rest
  theirs likewise, at the same time. Then each of the rest exchanges with one of
  the first, with the weight m/n, and holds the mean of all; the first, digit by
  digit again, spread what they were given.

  >>> w = finite_time(5)
  >>> np.allclose(functools.reduce(lambda x, y: y @ x, w), 1 / 5)
  True

  In the manner of Takezawa et al., `Beyond Exponential Graph
  <https://arxiv.org/abs/2305.11420>`_, 2023, whose base-(k + 1) graphs need
  fewer steps.
  """
  checks.count('n', n, 1)
  checks.count('max_degree', max_degree, 1)
  base = max_degree + 1
  m = 1
  while m * base <= n:
    m *= base
  m *= n // m
  spread = _digits(m, base)
  if m == n:
    return np.stack(spread)
  rest = list(finite_time(n - m, max_degree))
  steps = max(len(spread), len(rest))
  both = [_block(_get(spread, t, m), _get(rest, t, n - m))
          for t in range(steps)]
  across = np.eye(n)
  for i in range(n - m):
    j, weight = m + i, m / n
    across[[i, j], [i, j]] = 1 - weight
    across[[i, j], [j, i]] = weight
  return np.stack([*both, across,
                   *(_block(w, np.eye(n - m)) for w in spread)])


def random_matching(n: int, count: int, seed: int = 0) -> np.ndarray:
  """Draw pairs that average, all anew each time: a bank [count, n, n].

  For even n the squared distance from the mean falls by (n − 2)/(2(n − 1)) a
  step in expectation. With odd n one worker, drawn too, keeps to itself.
  """
  checks.count('n', n, 1)
  checks.count('count', count, 1)
  rng, bank = np.random.default_rng(seed), np.zeros((count, n, n))
  for w in bank:
    order = rng.permutation(n)
    w[range(n), range(n)] = 1
    for i, j in zip(order[0::2], order[1::2]):
      w[[i, i, j, j], [i, j, i, j]] = 1 / 2
  return bank


def spectral_gap(w: np.ndarray) -> float:
  """Compute 1 − ρ, with ρ = ‖W − 11ᵀ/n‖₂, of a matrix or of a whole sequence.

  Of a sequence that is the gap of its product.

  >>> round(spectral_gap(hypercube(8)), 6)
  0.5
  """
  product = functools.reduce(lambda x, y: y @ x, check(w))
  return 1 - float(np.linalg.norm(product - 1 / len(product), 2))


def least_eigenvalue(w: np.ndarray) -> float:
  """Compute λ_min of a symmetric matrix.

  On curvature h, mixing the old parameters and adding a step of α is stable for
  αh < 1 + λ_min.
  """
  return float(np.linalg.eigvalsh(check(w)[0])[0])


def effective_neighbours(w: np.ndarray, decay: float) -> float:
  """Count how many workers' noise is averaged: n_W(γ), from 1 to n.

  [1/(1 − γ)] / [(1/n) Σ λ_i²/(1 − γ λ_i²)], of a symmetric W.

  >>> round(effective_neighbours(ring(32), 0.9), 2)
  6.63

  Vogels et al., `Beyond Spectral Gap <https://arxiv.org/abs/2206.03093>`_,
  2022.

  Args:
    w: The mixing matrix.
    decay: γ, from 0 to below 1: how long noise is remembered.
  """
  checks.share('decay', decay)
  squares = np.linalg.eigvalsh(check(w)[0])**2
  return 1 / (1 - decay) / float(np.mean(squares / (1 - decay * squares)))


def check(w: np.ndarray | Sequence[np.ndarray], name: str = 'w') -> np.ndarray:
  """Return a sequence [t, n, n], or raise ValueError.

  Each matrix is to be square and doubly stochastic.
  """
  w = np.asarray(w, float)
  w = w[None] if w.ndim == 2 else w
  if w.ndim != 3 or w.shape[1] != w.shape[2] or not w.size:
    raise ValueError(f'{name} of shape {w.shape}: must be [n, n] or [t, n, n]')
  if not np.isfinite(w).all() or w.min() < -1e-9 or not all(
      np.allclose(w.sum(axis), 1, atol=1e-6) for axis in (1, 2)):
    raise ValueError(f'{name} is not doubly stochastic: must have no negative '
                     'entries, and rows and columns that add up to 1')
  return w


def _log2(n):
  checks.count('n', n, 1)
  if n & (n - 1):
    raise ValueError(f'n={n!r}: must be a power of two; finite_time takes any')
  return n.bit_length() - 1


def _exchange(n, bit):
  return np.eye(n)[np.arange(n) ^ bit]


def _digits(m, base):
  """Complete groups along each digit of m = a base^p, one digit a step."""
  shape, rest = [], m
  while rest % base == 0 and rest > 1:
    shape.append(base)
    rest //= base
  if rest > 1:
    shape.append(rest)
  steps = []
  for place in range(len(shape)):
    parts = [complete(s) if i == place else np.eye(s)
             for i, s in enumerate(shape)]
    steps.append(functools.reduce(np.kron, parts))
  return steps or [np.eye(1)]


def _get(steps, t, n):
  return steps[t] if t < len(steps) else np.eye(n)


def _block(a, b):
  return np.block([[a, np.zeros((len(a), len(b)))],
                   [np.zeros((len(b), len(a))), b]])
