"""Delayed SGD on a quadratic, exactly: what the laws are held to.

  x_{t+1} = x_t − u (x_{t−τ} + z_t),   E z = 0,   E z² = M x_{t−τ}² + σ²,

for u = rate · curvature, of one direction of curvature, or of any isotropic
quadratic with E‖z‖² in place of E z². A batch of b has M/b and σ²/b. All is
float64 on the host, of numbers.

The autocorrelation of what the delayed loop does to an impulse obeys a linear
recursion of two terms, so that its energy has a closed form; x is stable in
mean square where M u² times that energy is below one, and grows as the ρ at
which it is one for x_t ρ^{−t/2}.
"""

import functools
import math

import numpy as np

from gradiv._common import checks

# In float64, the place of a maximum is known to half of its digits.
_SECTIONS = 40


def stability_limit(staleness: int) -> float:
  """Compute 2 sin(π/(2(2τ + 1))): without noise, stable for u below it.

  >>> [round(stability_limit(t), 4) for t in (0, 1, 2, 7)]
  [2.0, 1.0, 0.618, 0.2091]
  """
  checks.count('staleness', staleness, 0)
  return 2 * math.sin(math.pi / (2 * (2 * staleness + 1)))


def best_step(staleness: int) -> float:
  """Compute u* = τ^τ/(τ + 1)^(τ + 1), the best without noise.

  There x falls by τ/(τ + 1) a step.
  """
  checks.count('staleness', staleness, 0)
  return (staleness / (staleness + 1))**staleness / (staleness + 1)


def spectral_radius(step: float, staleness: int) -> float:
  """Compute the largest |z| of z^{τ+1} − z^τ + u = 0, for a stable u.

  >>> spectral_radius(best_step(3), 3)
  0.75
  """
  _check_step(step, staleness)
  if staleness == 0:
    return abs(1 - step)
  tau, best = staleness, best_step(staleness)
  if step <= best:  # real, and z^τ (1 − z) falls from τ/(τ+1) on
    return _bisect(lambda z: z**tau * (1 - z) > step, tau / (tau + 1), 1.)
  radius = lambda a: math.sin(tau * a) / math.sin((tau + 1) * a)
  height = lambda a: radius(a)**tau * math.sin(a) / math.sin((tau + 1) * a)
  return radius(_bisect(lambda a: height(a) < step, 1e-9 / (tau + 1),
                        math.pi / (2 * tau + 1)))


def impulse_energy(step: float, staleness: int) -> float:
  """Compute H₂ = Σ h_k², of h_{k+1} = h_k − u h_{k−τ} from h_0 = 1.

  [c + sin wτ] / [2 sin w (cos wτ − s)], with w = 2 asin(u/2), s = u/2 and
  c = cos(w/2).

  >>> round(impulse_energy(0.5, 0), 6)
  1.333333
  """
  _check_step(step, staleness)
  s = step / 2
  w, c = 2 * math.asin(s), math.sqrt(1 - s * s)
  return (c + math.sin(w * staleness)) / (
    2 * math.sin(w) * (math.cos(w * staleness) - s))


def mean_square_limit(noise_ratio: float, staleness: int) -> float:
  """Compute u_max: E x² stays bounded for steps below it, M u² H₂ < 1.

  (τ + 1 + M) u_max is from π/2 to 2, whatever M and τ.

  >>> round(mean_square_limit(1, 1), 6), mean_square_limit(9, 0)
  (0.618034, 0.2)
  """
  checks.at_least('noise_ratio', noise_ratio, 0)
  limit = stability_limit(staleness)
  if noise_ratio == 0:
    return limit
  if staleness == 0:
    return 2 / (1 + noise_ratio)
  return _bisect(
    lambda u: noise_ratio * u**2 * impulse_energy(u, staleness) < 1,
    1 / (staleness + 1 + noise_ratio), limit * (1 - 1e-14))


def mean_square_radius(
  step: float, staleness: int, noise_ratio: float
) -> float:
  """Compute the ρ by which E x² grows a step, where σ² is none.

  >>> round(mean_square_radius(0.25, 0, 3), 6)
  0.75
  """
  _check_step(step, staleness)
  checks.at_least('noise_ratio', noise_ratio, 0)
  least = spectral_radius(step, staleness)**2
  if staleness == 0:
    return least + noise_ratio * step**2
  if noise_ratio == 0:
    return least
  below = lambda rho: _noise_at(rho, step, staleness) < noise_ratio
  most = 1.
  while below(most):
    most *= 2
  return _bisect(below, least, most)


@functools.cache
def best_rate(noise_ratio: float, staleness: int) -> tuple[float, float]:
  """Compute r* = max (1 − ρ) over the steps, and the u that attains it.

  (τ + 1 + M) r* is from 1 to 2.

  >>> rate, step = best_rate(3, 0)
  >>> round(rate, 6), round(step, 6)
  (0.25, 0.25)
  """
  limit = mean_square_limit(noise_ratio, staleness)
  if staleness == 0:
    return 1 / (1 + noise_ratio), 1 / (1 + noise_ratio)
  if noise_ratio == 0:
    return 1 - (staleness / (staleness + 1))**2, best_step(staleness)
  rho = lambda u: mean_square_radius(u, staleness, noise_ratio)
  low, high, golden = 0., limit, (math.sqrt(5) - 1) / 2
  a, b = high - golden * (high - low), low + golden * (high - low)
  at_a, at_b = rho(a), rho(b)
  for _ in range(_SECTIONS):
    if at_a < at_b:
      high, b, at_b = b, a, at_a
      a = high - golden * (high - low)
      at_a = rho(a)
    else:
      low, a, at_a = a, b, at_b
      b = low + golden * (high - low)
      at_b = rho(b)
  return (1 - at_a, a) if at_a < at_b else (1 - at_b, b)


def _noise_at(rho, step, tau):
  """Compute the M at which E x² grows as ρ.

  y_t = x_t ρ^{−t/2} obeys y_{t+1} = a y_t − v (y_{t−τ} + noise). For its
  autocorrelation d_k = a d_{k−1} − v d_{τ+1−k}: the pair (d_k, d_{τ−k}) turns
  by one matrix of determinant 1, and ends as it began, swapped. The variance
  stays where 1 = a² − 2 a v d_τ/d_0 + v² (1 + M).
  """
  a, v = rho**-0.5, step * rho**(-(tau + 1) / 2)
  turn = np.array([[a, -v], [v, (1 - v * v) / a]])
  p = np.linalg.matrix_power(turn, tau)
  ratio = p[0, 0] / (1 - p[0, 1])
  return (1 - a * a + 2 * a * v * ratio) / (v * v) - 1


def _bisect(holds, low, high):
  """Find where `holds`, true at `low`, ceases to."""
  while low < (middle := (low + high) / 2) < high:
    low, high = (middle, high) if holds(middle) else (low, middle)
  return middle


def _check_step(step, staleness):
  limit = stability_limit(staleness)
  if not 0 < step < limit:
    raise ValueError(f'step={step!r}: must be positive, and below {limit:g}, '
                     f'with staleness={staleness}')
