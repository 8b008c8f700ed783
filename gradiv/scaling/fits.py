"""Fit the noise model (M, σ²) of a run, or bound M from sparsity.

Everything here is NumPy and runs on the host. The points (‖∇f‖², tr Σ) come
from `gradiv.estimate` or `gradiv.read_moments`, stacked into an `Estimate` of
arrays. Estimates of single steps are so noisy that a fit through them is biased
toward M = 0: average them first, or measure on large samples.
"""

import jax
import numpy as np

from gradiv._common import checks
from gradiv.diversity import Estimate
from gradiv.scaling.laws import NoiseModel


def fit_noise(points: Estimate) -> NoiseModel:
  """Fit tr Σ = M‖∇f‖² + σ² by least squares, with M and σ² not negative.

  If the points cannot separate the two, the fit with the smaller σ² is
  returned.

  >>> fit_noise(Estimate(np.array([1., 2.]), np.array([5., 8.])))
  NoiseModel(relative=3.0, absolute=2.0)

  Args:
    points: K estimates, as arrays of shape [K]. Non-finite ones are left out.

  Raises:
    ValueError: If no finite point is left.
  """
  g, v = _known(points)
  square, mean = g @ g, np.mean(g)
  spread = np.sum((g - mean)**2)
  ray = NoiseModel(max(g @ v / square, 0.) if square else 0., 0.)
  flat = NoiseModel(0., max(v.mean(), 0.))
  found = [ray, flat]
  # A smaller spread is rounding: all points have the same ‖∇f‖².
  if spread > 1e-24 * square:
    slope = (g - mean) @ v / spread
    offset = v.mean() - slope * mean
    if min(slope, offset) >= 0:
      found = [NoiseModel(slope, offset)]
  # The problem is convex: if the line is infeasible, the optimum lies on a
  # bound.
  miss = lambda m: np.sum((m.relative * g + m.absolute - v)**2)
  return _plain(min(found, key=miss))


def bound_noise(points: Estimate) -> NoiseModel:
  """Find the tightest bound tr Σ ≤ M‖∇f‖² + σ² that holds at every point.

  The bound with the least sum of M‖∇f‖² + σ² over the points; it lies along an
  edge of their upper hull. Ties go to the smallest M.

  >>> bound_noise(Estimate(np.array([0., 1., 2.]), np.array([2., 3., 8.])))
  NoiseModel(relative=3.0, absolute=2.0)

  Args:
    points: K estimates, as arrays of shape [K]. Non-finite ones are left out.
      A negative ‖∇f‖², which an estimate may have, counts as zero.

  Raises:
    ValueError: If no finite point is left.
  """
  g, v = _known(points)
  g = np.maximum(g, 0)
  # The origin as one more point keeps σ² from being negative.
  corners = np.stack([np.append(g, 0.), np.append(v, 0.)], 1)
  slopes = np.append(0., np.maximum(_slopes(_upper_hull(corners)), 0.))
  offsets = np.array([(corners[:, 1] - m * corners[:, 0]).max()
                      for m in slopes])
  best = np.lexsort((slopes, slopes * g.mean() + offsets))[0]
  return _plain(NoiseModel(slopes[best], offsets[best]))


def least_noise_ratio(density: float) -> float:
  """Compute the smallest possible M of sparse gradients, 1/Δ − 1.

  Δ is the largest probability that a coordinate of an example's gradient is
  nonzero. Since (E g_v)² ≤ P(g_v ≠ 0) E g_v² for each coordinate v,
  ‖∇f‖² ≤ Δ E‖g‖², so that batches and delays up to 1/Δ are free on sparse
  data. Equality holds if each gradient has one nonzero coordinate, all equally
  likely.

  >>> least_noise_ratio(0.125)
  7.0

  Args:
    density: Δ, in (0, 1]; see `gradient_density`.
  """
  checks.positive('density', density)
  checks.within('density', density, 0, 1)
  return 1 / density - 1


def gradient_density(grads: jax.typing.ArrayLike) -> float:
  """Measure the density Δ of per-example gradients, a tree of [n, ...].

  The largest fraction of examples with a nonzero value at one coordinate.

  >>> gradient_density(np.eye(4))
  0.25
  """
  return max(float(np.max(np.mean(np.asarray(g) != 0, 0)))
             for g in jax.tree.leaves(grads))


def _known(points):
  g, v = (np.ravel(np.asarray(x, float)) for x in points)
  if g.shape != v.shape:
    raise ValueError(
      f'points of {g.size} sq_norm and {v.size} variance: must have one size')
  known = np.isfinite(g) & np.isfinite(v)
  if not known.any():
    raise ValueError(f'points={points!r}: must have a finite one')
  return g[known], v[known]


def _upper_hull(corners):
  """Walk over the corners from left to right, turning right only."""
  hull: list[tuple[float, float]] = []
  for x, y in corners[np.lexsort(corners.T[::-1])]:
    if hull and hull[-1][0] == x:
      hull.pop()  # below, on the same line
    while len(hull) > 1 and _turns_left(hull[-2], hull[-1], (x, y)):
      hull.pop()
    hull.append((x, y))
  return np.array(hull)


def _turns_left(a, b, c):
  return (b[0] - a[0]) * (c[1] - a[1]) >= (b[1] - a[1]) * (c[0] - a[0])


def _slopes(hull):
  run, rise = np.diff(hull, axis=0).T
  return rise / run


def _plain(noise):
  return NoiseModel(*map(float, noise))
