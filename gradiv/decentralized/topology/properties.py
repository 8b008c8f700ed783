"""Checks of mixing matrices, and properties that follow from their spectra."""

import functools
from collections.abc import Sequence

import jax
import numpy as np

from gradiv._common import checks


def check(w: np.ndarray | Sequence[np.ndarray], name: str = 'w') -> np.ndarray:
  """Return doubly stochastic matrices as a sequence [t, n, n].

  Args:
    w: One matrix [n, n], or a sequence of them.
    name: Name of the argument, for the error message.

  Raises:
    ValueError: If a matrix is not square, or not doubly stochastic.
  """
  return _check(w, name, (1, 2), 'doubly stochastic', 'rows and columns')


def check_columns(
  w: np.ndarray | Sequence[np.ndarray], name: str = 'w'
) -> np.ndarray:
  """Return column-stochastic matrices as a sequence [t, n, n].

  These are the matrices of directed graphs, on which each worker splits what it
  has among its receivers. For the arguments, see `check`.
  """
  return _check(w, name, (1,), 'column-stochastic', 'columns')


def is_connected(bank: np.ndarray) -> bool:
  """Return whether news from each worker reaches all others in the end.

  Args:
    bank: Matrices [t, n, n] that are used in turn.
  """
  n = bank.shape[1]
  reach = (bank > 0).any(0) | np.eye(n, dtype=bool)
  for _ in range(n.bit_length()):
    reach = reach @ reach
  return bool(reach.all())


def spectral_gap(w: np.ndarray | Sequence[np.ndarray]) -> float:
  """Compute the spectral gap 1 − ρ, with ρ = ‖W − 11ᵀ/n‖₂.

  Mixing once multiplies the distance from the mean by at most ρ. The gap of a
  sequence is that of its product, for one pass over the sequence.

  >>> from gradiv import topology
  >>> round(spectral_gap(topology.hypercube(8)), 6)
  0.5
  """
  product = functools.reduce(lambda x, y: y @ x, check(w))
  return 1 - float(np.linalg.norm(product - 1 / len(product), 2))


def least_eigenvalue(w: np.ndarray) -> float:
  """Compute the smallest eigenvalue λ_min of a symmetric matrix.

  `mix_by_gossip` with order='awc' is stable on curvature h if αh < 1 + λ_min.

  >>> from gradiv import topology
  >>> round(least_eigenvalue(topology.ring(4)), 6)
  -0.333333
  """
  return float(_eigenvalues(w)[0])


def effective_neighbors(w: np.ndarray, decay: float) -> float:
  """Compute how many workers' noise is averaged: n_W(γ), from 1 to n.

  [1/(1 − γ)] / [(1/n) Σ λ_i²/(1 − γ λ_i²)], of a symmetric W. Compare graphs by
  it: it predicts the learning rate better than the spectral gap does.

  >>> from gradiv import topology
  >>> round(effective_neighbors(topology.ring(32), 0.9), 2)
  6.63

  The longer noise is remembered, the farther it spreads beyond the two direct
  neighbors.

  Vogels et al., `Beyond Spectral Gap <https://arxiv.org/abs/2206.03093>`_,
  2022.

  Args:
    w: Symmetric mixing matrix [n, n].
    decay: γ, from 0 to below 1; how long noise is remembered.
  """
  checks.fraction('decay', decay)
  squares = _eigenvalues(w)**2
  return 1 / (1 - decay) / float(np.mean(squares / (1 - decay * squares)))


def isotropic_rate(
  w: np.ndarray, learning_rate: float, noise_ratio: float
) -> float:
  """Compute the fraction of the error that a step of decentralized SGD removes.

  On random isotropic quadratics, with gradients a aᵀx, E aaᵀ = I, and steps of
  order 'atc', the mean of the squared parameters eventually falls by 1 − r per
  step, where r is the largest solution of

    r = 1 − (1 − η)² − M η²/n_W(γ),  γ = (1 − η)²/(1 − r),

  and M = ζ − 1 is the noise ratio, with ζ = E‖a‖⁴/d. Neighbors act as a batch;
  on the complete graph n_W = n.

  >>> from gradiv import topology
  >>> round(isotropic_rate(topology.complete(8), 0.276, 21.0), 4)
  0.2759

  Vogels et al., `Beyond Spectral Gap <https://arxiv.org/abs/2206.03093>`_,
  2022.

  Args:
    w: Symmetric mixing matrix [n, n].
    learning_rate: η, from 0 to 2.
    noise_ratio: M, at least 0.
  """
  checks.within('learning_rate', learning_rate, 0, 2)
  checks.at_least('noise_ratio', noise_ratio, 0)
  squares = _eigenvalues(w)**2
  kept = (1 - learning_rate)**2
  noise = noise_ratio * learning_rate**2 / len(squares)
  # 1 − r is the root ρ > kept of 1 = noise Σ λ²/(ρ − kept λ²).
  excess = lambda rho: noise * np.sum(squares / (rho - kept * squares)) - 1
  low, high = kept, kept + noise * len(squares) + 1e-12
  for _ in range(200):
    middle = (low + high) / 2
    low, high = (middle, high) if excess(middle) > 0 else (low, middle)
  return float(1 - high)


def _check(w, name, sums, kind, which):
  if isinstance(w, jax.core.Tracer):
    raise ValueError(f'{name} is traced: must be known while tracing; with '
                     'optax.inject_hyperparams, name it in static_args')
  try:
    w = np.asarray(w, float)
  except (TypeError, ValueError):  # a text, or rows of several lengths
    raise ValueError(f'{name}={w!r}: must be an array of numbers') from None
  w = w[None] if w.ndim == 2 else w
  if w.ndim != 3 or w.shape[1] != w.shape[2] or not w.size:
    raise ValueError(f'{name} of shape {w.shape}: must be [n, n] or [t, n, n]')
  if not np.isfinite(w).all() or w.min() < -1e-9 or not all(
      np.allclose(w.sum(axis), 1, atol=1e-6) for axis in sums):
    raise ValueError(f'{name} is not {kind}: must have no negative entries, '
                     f'and {which} that sum to 1')
  return w


def _eigenvalues(w):
  """Return the eigenvalues of one symmetric matrix, in ascending order."""
  bank = check(w)
  if len(bank) != 1 or not np.allclose(bank[0], bank[0].T):
    raise ValueError(f'w of shape {np.shape(w)}: must be one symmetric matrix')
  return np.linalg.eigvalsh(bank[0])
