"""What the spectrum of a mixing matrix promises."""

import functools

import numpy as np

from gradiv._common import checks
from gradiv.decentralized.topology import conditions


def spectral_gap(w: np.ndarray) -> float:
  """Compute 1 − ρ, with ρ = ‖W − 11ᵀ/n‖₂, of a matrix or of a whole sequence.

  Of a sequence that is the gap of its product.

  >>> from gradiv import topology
  >>> round(spectral_gap(topology.hypercube(8)), 6)
  0.5
  """
  product = functools.reduce(lambda x, y: y @ x, conditions.check(w))
  return 1 - float(np.linalg.norm(product - 1 / len(product), 2))


def least_eigenvalue(w: np.ndarray) -> float:
  """Compute λ_min of a symmetric matrix.

  On curvature h, mixing the old parameters and adding a step of α is stable for
  αh < 1 + λ_min.
  """
  return float(_eigenvalues(w)[0])


def effective_neighbours(w: np.ndarray, decay: float) -> float:
  """Count how many workers' noise is averaged: n_W(γ), from 1 to n.

  [1/(1 − γ)] / [(1/n) Σ λ_i²/(1 − γ λ_i²)], of a symmetric W.

  >>> from gradiv import topology
  >>> round(effective_neighbours(topology.ring(32), 0.9), 2)
  6.63

  Vogels et al., `Beyond Spectral Gap <https://arxiv.org/abs/2206.03093>`_,
  2022.

  Args:
    w: The mixing matrix.
    decay: γ, from 0 to below 1: how long noise is remembered.
  """
  checks.fraction('decay', decay)
  squares = _eigenvalues(w)**2
  return 1 / (1 - decay) / float(np.mean(squares / (1 - decay * squares)))


def isotropic_rate(
  w: np.ndarray, learning_rate: float, noise_ratio: float
) -> float:
  """Compute the share of the error that a step of decentralised SGD removes.

  On random isotropic quadratics, gradients a aᵀx with E aaᵀ = I, and steps of
  'atc', the mean of the squared parameters falls by 1 − r a step in the end,
  with r the largest solution of

    r = 1 − (1 − η)² − M η²/n_W(γ),  γ = (1 − η)²/(1 − r),

  where M = ζ − 1 is the noise ratio, ζ = E‖a‖⁴/d. Neighbours act as a batch:
  on the complete graph n_W = n.

  >>> from gradiv import topology
  >>> round(isotropic_rate(topology.complete(8), 0.276, 21.0), 4)
  0.2759

  Vogels et al., `Beyond Spectral Gap <https://arxiv.org/abs/2206.03093>`_,
  2022.

  Args:
    w: The mixing matrix; symmetric.
    learning_rate: η, from 0 to 2.
    noise_ratio: M, at least 0.

  Raises:
    ValueError: On a bad argument, and on directed graphs and sequences.
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


def _eigenvalues(w):
  """List the eigenvalues of one symmetric matrix, rising."""
  bank = conditions.check(w)
  if len(bank) != 1 or not np.allclose(bank[0], bank[0].T):
    raise ValueError(f'w of shape {np.shape(w)}: must be one symmetric matrix')
  return np.linalg.eigvalsh(bank[0])
