"""Gradients that are hard in one way each, as rows in float64."""

import numpy as np

EPS = float(np.finfo(np.float32).eps)
# One alone, a pair, an odd number, and more than most rules' num_byzantine.
SIZES = (1, 2, 5, 16)

# Few dimensions: ranks, lengths, ties.
KINDS = ('random', 'offset', 'duplicates', 'outliers', 'zeros', 'line')
# Many dimensions, where gradients are nearly orthogonal, for several losses.
LOSS_KINDS = ('random', 'aligned', 'conflicting', 'near duplicates', 'scaled',
              'rank deficient', 'duplicated')
# Those of which no nonnegative sum is near zero.
SOLVABLE = ('random', 'aligned', 'near duplicates', 'scaled')


def hard(kind, n, dim=6):
  """Return gradients [n, dim] of one of `KINDS`."""
  rng = np.random.default_rng(n)
  x = rng.normal(size=(n, dim))
  if kind == 'offset':
    x += 3
  elif kind == 'duplicates':
    x = 1 + 1e-4 * x
  elif kind == 'outliers':
    x[:(n - 1) // 2] *= 1e6
  elif kind == 'zeros':
    x[::2] = 0
  elif kind == 'line':
    x = x[:, :1] * rng.normal(size=dim)
  return x


def several(kind, n, times):
  """Return gradients [times, n, dim], what is hard about them at random."""
  x = hard(kind, times * n)
  return np.random.default_rng(n).permutation(x).reshape(times, n, -1)


def losses(kind, n, dim=200):
  """Return gradients [n, dim] of one of `LOSS_KINDS`."""
  rng = np.random.default_rng(0)
  rows, common = rng.normal(size=(n, dim)), rng.normal(size=dim)
  few = max(n // 2, 1)
  return {
    'random': lambda: rows,
    'aligned': lambda: rows + common,
    'conflicting': lambda: rows - 0.9 * rows.mean(0),
    'near duplicates': lambda: common + 0.03 * rows,
    'scaled': lambda: rows * np.geomspace(0.1, 10, n)[:, None],
    'rank deficient': lambda: rng.uniform(
      0.1, 1, size=(n, few)) @ rows[:few],
    'duplicated': lambda: rows[np.arange(n) // 2],
  }[kind]()


def gram_of(x, centered=False):
  """Compute the Gram matrix in float64, rounded once."""
  x = x - x.mean(0) if centered else x
  return (x @ x.T).astype(np.float32)


def distances(x):
  return np.linalg.norm(x[:, None] - x[None], axis=-1)


def absences(n):
  """Return masks: everyone, nobody, one alone, and two random halves."""
  some = np.random.default_rng(n).random((2, n)) < .5
  return np.array([[True] * n, [False] * n, np.arange(n) == n // 2, *some])
