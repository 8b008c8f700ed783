"""Conflict rules in the space of the gradients, in float64, and their inputs.

Written from the definitions, on the rows of J, with SciPy's solvers: nothing
here looks at a Gram matrix.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from gradiv.weightings import minmax, projection, spectral

KEY = jax.random.key(7)
RIDGE = 1e-4
SIZES = (1, 2, 5, 32)

RULES = {
  'pcgrad': projection.pcgrad(),
  'gradvac': projection.gradvac(),
  'upgrad': projection.upgrad(),
  'dual_proj': projection.dual_proj(),
  'mgda': minmax.mgda(),
  'cagrad': minmax.cagrad(0.5),
  'cagrad 1.5': minmax.cagrad(1.5),
  'nash_mtl': minmax.nash_mtl(),
  'nash_mtl free': minmax.nash_mtl(None),
  'imtl_g': spectral.imtl_g(),
  'config': spectral.config(),
  'aligned_mtl': spectral.aligned_mtl(),
  'aligned_mtl median': spectral.aligned_mtl('median'),
  'aligned_mtl rmse': spectral.aligned_mtl('rmse'),
}
RANDOM = ('pcgrad', 'gradvac')


@functools.cache
def compiled(name):
  return jax.jit(RULES[name].step)


def step(name, gram, present=None, state=None, key=KEY):
  """One compiled step; absent rows and columns are cleared."""
  n = len(gram)
  present = np.ones(n, bool) if present is None else np.asarray(present)
  state = RULES[name].init(n) if state is None else state
  gram = jnp.asarray(np.where(np.outer(present, present), gram, 0),
                     jnp.float32)
  w, state = compiled(name)(gram, jnp.asarray(present), state, key)
  return np.where(present, w, 0), state


def weigh(name, gram, present=None):
  return step(name, gram, present)[0]


def inputs(n, seed=0):
  """Gradients as rows that are hard in one way each, by name."""
  rng = np.random.default_rng(seed)
  rows = rng.normal(size=(n, 200))
  common = rng.normal(size=200)
  few = max(n // 2, 1)
  return {
    'random': rows,
    'aligned': rows + common,
    'conflicting': rows - 0.9 * rows.mean(0),
    'near duplicates': common + 0.03 * rows,
    'scaled': rows * np.geomspace(0.1, 10, n)[:, None],
    'rank deficient': rng.uniform(0.1, 1, size=(n, few)) @ rows[:few],
    'duplicated': rows[np.arange(n) // 2],
  }


def orders(n, key=KEY):
  return np.asarray(projection._orders(key, n))


def pcgrad(rows):
  total = 0
  for i, order in enumerate(orders(len(rows))):
    p = rows[i].copy()
    for j in order:
      if j != i and p @ rows[j] < 0:
        p -= p @ rows[j] / (rows[j] @ rows[j]) * rows[j]
    total = total + p
  return total


def gradvac(rows, targets, decay=0.5):
  """The update and the next targets."""
  total, targets = 0, targets.copy()
  for i, order in enumerate(orders(len(rows))):
    p = rows[i].copy()
    for j in order:
      if j == i:
        continue
      length, other = np.linalg.norm(p), np.linalg.norm(rows[j])
      phi, target = p @ rows[j] / (length * other), targets[i, j]
      if phi < target:
        sine = np.sqrt(1 - target**2)
        p = p + rows[j] * length * (
          target * np.sqrt(max(1 - phi**2, 0)) - phi * sine) / (other * sine)
      targets[i, j] = decay * target + (1 - decay) * phi
    total = total + p
  return total, targets


def lengthened(rows, ridge=RIDGE):
  """Rows of a Frobenius norm of one, with a direction of its own for each."""
  n = len(rows)
  return np.hstack([rows / np.linalg.norm(rows), np.sqrt(ridge) * np.eye(n)])


def onto_cone(vector, rows):
  """Non-negative u such that vector + Jᵀu is its projection."""
  return scipy.optimize.nnls(rows.T, -vector, maxiter=1000)[0]


def upgrad(rows):
  long = lengthened(rows)
  u = sum(onto_cone(row, long) for row in long)
  return (rows.T @ (1 + u)) / len(rows)


def dual_proj(rows):
  long = lengthened(rows)
  return rows.mean(0) + rows.T @ onto_cone(long.mean(0), long)


def mgda(rows):
  """The least distance problem of Lawson and Hanson."""
  rows = rows / np.abs(rows).max()
  matrix = np.vstack([rows.T, np.ones(len(rows))])
  u = scipy.optimize.nnls(
    matrix, np.append(np.zeros(rows.shape[1]), 1), maxiter=1000)[0]
  return u / u.sum()


def cagrad(rows, c):
  """Maximise t over (d, t): ⟨g_i, d⟩ ≥ t, ‖d − ḡ‖ ≤ c‖ḡ‖."""
  q = np.linalg.qr(rows.T)[0]
  rows = rows @ q
  mean = rows.mean(0)
  radius = c * np.linalg.norm(mean)
  found = scipy.optimize.minimize(
    lambda z: -z[-1], np.append(mean, (rows @ mean).min()),
    jac=lambda z: np.append(np.zeros(len(mean)), -1), method='SLSQP',
    constraints=(
      dict(type='ineq', fun=lambda z: rows @ z[:-1] - z[-1],
           jac=lambda z: np.hstack([rows, -np.ones((len(rows), 1))])),
      dict(type='ineq',
           fun=lambda z: radius**2 - np.sum((z[:-1] - mean)**2),
           jac=lambda z: np.append(-2 * (z[:-1] - mean), 0))),
    options=dict(maxiter=1000, ftol=1e-14))
  return q @ found.x[:-1]


def nash_mtl(rows):
  """Minimise ½‖Jᵀw‖² − Σ log w_i over y = log w."""
  def value(y):
    update = np.exp(y) @ rows
    return update @ update / 2 - y.sum()

  def slope(y):
    return np.exp(y) * (rows @ (np.exp(y) @ rows)) - 1

  def hessian(y):
    long = np.exp(y)[:, None] * rows
    return long @ long.T + np.diag(slope(y) + 1)

  start = -np.log(np.linalg.norm(rows, axis=1))
  found = scipy.optimize.minimize(
    value, start, jac=slope, hess=hessian, method='trust-exact',
    options=dict(gtol=1e-11, maxiter=500))
  return np.exp(found.x)


def equal_projections(rows):
  units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
  return np.linalg.pinv(units, rcond=1e-3) @ np.ones(len(rows))


def imtl_g(rows):
  """The d of equal projections that is a combination with a sum of one."""
  d = equal_projections(rows)
  # Of all combinations, the shortest in units of the lengths.
  norms = np.linalg.norm(rows, axis=1)
  units = rows / norms[:, None]
  w = np.linalg.pinv(units.T, rcond=1e-3) @ d / norms
  return d / w.sum()


def config(rows):
  d = equal_projections(rows)
  unit = d / np.linalg.norm(d)
  return np.sum(rows @ unit) * unit


def aligned_mtl(rows, scale):
  left, sigma, right = np.linalg.svd(rows, full_matrices=False)
  kept = sigma > 1e-5 * sigma[0]
  left, sigma, right = left[:, kept], sigma[kept], right[kept]
  square = {'min': sigma[-1]**2, 'rmse': np.mean(sigma**2),
            'median': np.sort(sigma**2)[(len(sigma) - 1) // 2]}[scale]
  return np.sqrt(square) * (left @ right).mean(0)
