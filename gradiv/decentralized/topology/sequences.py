"""Sequences of mixing matrices that are used in turn: [t, n, n]."""

import numpy as np

from gradiv._common import checks
from gradiv.decentralized.topology import graphs


def one_peer_exponential(n: int) -> np.ndarray:
  """Average with the one worker at distance 2^t, t in turn: [p, n, n], n = 2^p.

  After p steps all workers hold the exact mean.
  """
  steps = range(max(graphs.power_of_two(n), 1))
  return np.stack([graphs.circulant(n, (1 << t,)) for t in steps])


def one_peer_hypercube(n: int) -> np.ndarray:
  """Average with the worker whose bit t differs, t in turn: [p, n, n], n = 2^p.

  Like `one_peer_exponential` it is exact after p steps; the matrices are
  symmetric.
  """
  steps = range(max(graphs.power_of_two(n), 1))
  return np.stack([(np.eye(n) + graphs.exchange(n, 1 << t if n > 1 else 0)) / 2
                   for t in steps])


def finite_time(n: int, max_degree: int = 1) -> np.ndarray:
  """Average exactly after O(log n) steps, for any n: [t, n, n].

  In each step workers average in groups of at most k + 1 = `max_degree` + 1.
  The first m workers, with m the largest a (k + 1)^p for which a ≤ k, reach
  their mean one digit of their index after the other; the rest reach theirs in
  the same way, at the same time. Then each of the rest averages with one of the
  first, with weight m/n, and holds the mean of all. Last, the first spread what
  they received, again digit by digit.

  >>> x = np.arange(5.)
  >>> for w in finite_time(5):
  ...   x = w @ x
  >>> x.round(6).tolist()  # the mean of 0 to 4
  [2.0, 2.0, 2.0, 2.0, 2.0]

  This follows Takezawa et al., `Beyond Exponential Graph
  <https://arxiv.org/abs/2305.11420>`_, 2023, whose base-(k + 1) graphs need
  fewer steps.

  Args:
    n: Number of workers.
    max_degree: k, the largest number of neighbors in one step.
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
  """Draw pairs of workers that average, anew for each step: [count, n, n].

  For even n, a step leaves (n − 2)/(2(n − 1)) of the squared distance from the
  mean in expectation. For odd n, one random worker sits out.

  Args:
    n: Number of workers.
    count: Number of matrices.
    seed: Seed of NumPy's generator.
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


def random_ring(n: int, count: int, seed: int = 0) -> np.ndarray:
  """Draw rings in random order, anew for each step: [count, n, n].

  Each worker averages with its two neighbors, with weights of 1/3. From three
  workers on, a step leaves (n − 3)/(3(n − 1)) of the squared distance from the
  mean in expectation.

  Zhang et al., `Improving Efficiency in Large-Scale Decentralized Distributed
  Training <https://arxiv.org/abs/2002.01119>`_, 2020.

  Args:
    n: Number of workers.
    count: Number of matrices.
    seed: Seed of NumPy's generator.
  """
  checks.count('n', n, 1)
  checks.count('count', count, 1)
  rng, ring = np.random.default_rng(seed), graphs.ring(n)
  orders = [rng.permutation(n) for _ in range(count)]
  return np.stack([ring[np.ix_(order, order)] for order in orders])


def _digits(m, base):
  """Return complete groups along each digit of m = a base^p, one per step."""
  shape, rest = [], m
  while rest % base == 0 and rest > 1:
    shape.append(base)
    rest //= base
  if rest > 1:
    shape.append(rest)
  steps = []
  for place in range(len(shape)):
    step = np.eye(1)
    for i, s in enumerate(shape):
      step = np.kron(step, graphs.complete(s) if i == place else np.eye(s))
    steps.append(step)
  return steps or [np.eye(1)]


def _get(steps, t, n):
  return steps[t] if t < len(steps) else np.eye(n)


def _block(a, b):
  return np.block([[a, np.zeros((len(a), len(b)))],
                   [np.zeros((len(b), len(a))), b]])
