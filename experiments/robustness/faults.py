"""Gradients of eight workers, and what the bad ones among them send.

All draws are NumPy's, from one seed, so that the table is the same everywhere.
"""

from collections.abc import Callable

import numpy as np

NUM_WORKERS, SIZE = 8, 1000
SEED = 0


def honest() -> np.ndarray:
  """Draw the gradients of all workers [n, D]: a mean and noise as long as it.

  Two of them have a cosine of about a half.
  """
  rng = np.random.default_rng(SEED)
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  mean = unit(rng.normal(size=SIZE))
  return mean + unit(rng.normal(size=(NUM_WORKERS, SIZE)))


def _filled(value: float) -> Callable:
  return lambda good, own: np.full_like(own, value)


def _alie(good: np.ndarray, own: np.ndarray) -> np.ndarray:
  """Hide within the spread of each coordinate, z = 1.5 deviations away.

  Baruch, Baruch, Goldberg, `A Little Is Enough
  <https://arxiv.org/abs/1902.06156>`_, 2019.
  """
  return np.broadcast_to(good.mean(0) - 1.5 * good.std(0), own.shape)


def _ipm(good: np.ndarray, own: np.ndarray) -> np.ndarray:
  """Turn the inner product with the mean: −ε times it, ε = 0.5.

  Xie, Koyejo, Gupta, `Fall of Empires <https://arxiv.org/abs/1903.03936>`_,
  2019.
  """
  return np.broadcast_to(-0.5 * good.mean(0), own.shape)


# Functions of the good gradients, and of those that the bad workers have:
# [good, D], [bad, D] -> [bad, D].
FAULTS = {
  'NaN': _filled(np.nan),
  'Inf': _filled(np.inf),
  '1e30': _filled(1e30),
  'one element 1e30': lambda good, own: np.where(
    np.arange(SIZE) == 3, 1e30, own),
  '× 10⁶': lambda good, own: 1e6 * own,
  '× −10': lambda good, own: -10 * own,
  '× −1': lambda good, own: -own,
  'constant': lambda good, own: np.full_like(own, SIZE**-.5),
  'ALIE': _alie,
  'IPM': _ipm,
  'mimic': lambda good, own: np.broadcast_to(good[0], own.shape),
}


def with_faults(fault: str, num_bad: int) -> np.ndarray:
  """Let the last workers be bad: gradients [n, D], float32."""
  grads = honest()
  good, own = grads[:-num_bad], grads[-num_bad:]
  with np.errstate(over='ignore'):
    bad = FAULTS[fault](good, own)
    return np.concatenate([good, bad]).astype(np.float32)
