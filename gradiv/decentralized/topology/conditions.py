"""What makes a mixing matrix."""

from collections.abc import Sequence

import numpy as np


def check(w: np.ndarray | Sequence[np.ndarray], name: str = 'w') -> np.ndarray:
  """Return a sequence [t, n, n], or raise ValueError.

  Each matrix is to be square and doubly stochastic.
  """
  return _check(w, name, (1, 2), 'is not doubly stochastic', 'rows and columns')


def check_columns(
  w: np.ndarray | Sequence[np.ndarray], name: str = 'w'
) -> np.ndarray:
  """Return a sequence [t, n, n] of column-stochastic matrices, or raise.

  For directed graphs: each worker deals out all that it has.
  """
  return _check(w, name, (1,), 'is not column-stochastic', 'columns')


def is_connected(bank: np.ndarray) -> bool:
  """Tell whether each worker hears of each other, in turn after turn."""
  n = bank.shape[1]
  reach = (bank > 0).any(0) | np.eye(n, dtype=bool)
  for _ in range(n.bit_length()):
    reach = reach @ reach
  return bool(reach.all())


def _check(w, name, sums, fault, which):
  w = np.asarray(w, float)
  w = w[None] if w.ndim == 2 else w
  if w.ndim != 3 or w.shape[1] != w.shape[2] or not w.size:
    raise ValueError(f'{name} of shape {w.shape}: must be [n, n] or [t, n, n]')
  if not np.isfinite(w).all() or w.min() < -1e-9 or not all(
      np.allclose(w.sum(axis), 1, atol=1e-6) for axis in sums):
    raise ValueError(f'{name} {fault}: must have no negative entries, and '
                     f'{which} that add up to 1')
  return w
