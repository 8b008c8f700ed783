"""The (M, σ²) of a run, from what was measured along it; and of sparse data.

All is NumPy, on the host. Points (‖∇f‖², tr Σ) come from `gradiv.estimate` or
from `track_moments`, as an `Estimate` of arrays. Estimates of single steps are
so noisy that a fit through them is biased towards M = 0: average them first, or
measure on large samples.
"""

import jax
import numpy as np

from gradiv._common import checks
from gradiv.diversity.metrics import Estimate
from gradiv.scaling.laws import NoiseModel


def fit_noise(points: Estimate) -> NoiseModel:
  """Fit tr Σ = M ‖∇f‖² + σ² by least squares, M and σ² not negative.

  Of points that do not tell the two apart, the fit of the smaller σ².

  >>> fit_noise(Estimate(np.array([1., 2.]), np.array([5., 8.])))
  NoiseModel(relative=3.0, absolute=2.0)

  Args:
    points: Of arrays [K]; those that are not finite are left out.

  Raises:
    ValueError: Where no point is left.
  """
  g, v = _known(points)
  square, mean = g @ g, np.mean(g)
  spread = np.sum((g - mean)**2)
  ray = NoiseModel(max(g @ v / square, 0.) if square else 0., 0.)
  flat = NoiseModel(0., max(v.mean(), 0.))
  found = [ray, flat]
  # Below rounding, all points have the same ‖∇f‖².
  if spread > 1e-24 * square:
    slope = (g - mean) @ v / spread
    line = NoiseModel(slope, v.mean() - slope * mean)
    if min(line) >= 0:
      found = [line]
  # Convex in two variables: else the best is on a bound.
  miss = lambda m: np.sum((m.relative * g + m.absolute - v)**2)
  return _plain(min(found, key=miss))


def bound_noise(points: Estimate) -> NoiseModel:
  """Find the tightest tr Σ ≤ M ‖∇f‖² + σ² that holds at every point.

  That with the least sum of M ‖∇f‖² + σ² over the points, by one edge of their
  upper hull. Of equals, the one of the smallest M.

  >>> bound_noise(Estimate(np.array([0., 1., 2.]), np.array([2., 3., 8.])))
  NoiseModel(relative=3.0, absolute=2.0)

  Args:
    points: Of arrays [K]; those that are not finite are left out. A ‖∇f‖²
      below zero, which an estimate may have, counts as zero.

  Raises:
    ValueError: Where no point is left.
  """
  g, v = _known(points)
  g = np.maximum(g, 0)
  # That σ² is not negative is one more point.
  corners = np.stack([np.append(g, 0.), np.append(v, 0.)], 1)
  slopes = np.append(0., np.maximum(_slopes(_upper_hull(corners)), 0.))
  offsets = np.array([(corners[:, 1] - m * corners[:, 0]).max()
                      for m in slopes])
  best = np.lexsort((slopes, slopes * g.mean() + offsets))[0]
  return _plain(NoiseModel(slopes[best], offsets[best]))


def least_noise_ratio(density: float) -> float:
  """Compute 1/Δ − 1, which M is never below, at no point.

  Δ is the largest chance that a coordinate of an example's gradient is not
  zero: ‖∇f‖² ≤ Δ E‖g‖², since (E g_v)² ≤ P(g_v ≠ 0) E g_v² for each. Batches
  and delays up to 1/Δ are hence free on sparse data, whatever else it is; with
  equality where each gradient has one coordinate, all as likely.

  >>> least_noise_ratio(0.125)
  7.0
  """
  if not isinstance(density, jax.Array):
    checks.positive('density', density)
    checks.within('density', density, 0, 1)
  return 1 / density - 1


def gradient_density(grads: jax.typing.ArrayLike) -> float:
  """Measure Δ on a tree of gradients [n, ...], one for each example.

  >>> gradient_density(np.eye(4))
  0.25
  """
  return max(float(np.max(np.mean(np.asarray(g) != 0, 0)))
             for g in jax.tree.leaves(grads))


def _known(points):
  g, v = (np.ravel(np.asarray(x, float)) for x in points)
  if g.shape != v.shape:
    raise ValueError(
      f'points of {g.size} sq_norm and {v.size} variance: must be as many')
  known = np.isfinite(g) & np.isfinite(v)
  if not known.any():
    raise ValueError(f'points={points!r}: must have one that is finite')
  return g[known], v[known]


def _upper_hull(corners):
  """Go from left to right over the corners, and always turn right."""
  hull = []
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
