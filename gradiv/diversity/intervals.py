"""Confidence intervals for averages of `Estimate` over steps.

Two weighted averages over the past are kept side by side. The *debiased
exponential average* Σ βʲ x_{t−j} / Σ βʲ has the least noise, and lags about
1/(1 − β) steps behind a truth that drifts. The *level* is the local linear fit
under the same weights, evaluated at the present step: it follows a linear
drift without lag, at about 2.5 times the variance.

The interval is drawn around the level. It therefore covers the truth of *now*,
also under a drift that is nearly linear over 1/(1 − β) steps: in simulations,
93 to 97 % of the intervals do at a nominal 95 %. The variance of the level
comes from second differences of the steps, (x_t − 2x_{t−1} + x_{t−2})²/6, to
which a linear drift contributes nothing. The interval of a ratio is Fieller's:
all p for which p·(G + S) − G is no further from zero than Student's t allows.
For p = 1/B_S in [0, 1] it is bounded whenever G + S is known at all, so nothing
is divided by an uncertain ‖∇F‖². If the average is so far from the middle of
the interval that a drift must have left it behind, it is not trusted.

Fieller, `Some Problems in Interval Estimation
<https://doi.org/10.1111/j.2517-6161.1954.tb00159.x>`_, 1954.
"""

import statistics
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradiv.diversity.estimates import Estimate

Scalar = jax.typing.ArrayLike

# Below this many degrees of freedom the variance of the average is a guess.
_LEAST_FREEDOM = 5.0


class Interval(NamedTuple):
  """Confidence interval for every ratio of ‖∇F‖² and tr Σ.

  Each end is an `Estimate`, in units of the second moment ‖∇F‖² + tr Σ.

  Attributes:
    lower: End with the smallest batch-size bound.
    upper: End with the largest batch-size bound; its ‖∇F‖² may be 0.
    is_trusted: Whether B_S is known to within a factor of two and changes
      slowly enough for the exponential average to keep up. While it is False,
      the interval may miss the truth more often than its level says.
  """

  lower: Estimate
  upper: Estimate
  is_trusted: jax.Array

  def of(
    self, metric: Callable[[Estimate], jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    """Return the interval (low, high) of a metric.

    Args:
      metric: Function of the ratio of ‖∇F‖² and tr Σ that only rises or only
        falls with it, such as `gradiv.batch_size_bound`.

    >>> one = jnp.float32(1)
    >>> interval = Interval(Estimate(one, one), Estimate(one, 3 * one), True)
    >>> low, high = interval.of(lambda e: 1 + e.variance / e.sq_norm)
    >>> float(low), float(high)
    (2.0, 4.0)
    """
    ends = metric(self.lower), metric(self.upper)
    return jnp.minimum(*ends), jnp.maximum(*ends)


class Averages(NamedTuple):
  """Running sums over the steps j = 0, 1, ... back from now.

  Attributes:
    count: int32, steps seen.
    sums: [2, 3], Σ βʲ jᵐ (1, G, S) for m = 0, 1.
    square: Σ βʲ j².
    last: [2, 2], (G, S) of the last two steps, newest first.
    spread: [3, 5], Σ β²ʲ jᵐ (1, 1 where known, GG, GS, SS) for m = 0, 1, 2,
      with the products of second differences.
  """

  count: jax.Array
  sums: jax.Array
  square: jax.Array
  last: jax.Array
  spread: jax.Array


def init() -> Averages:
  """Return the averages before the first step."""
  zeros = lambda *shape: jnp.zeros(shape, jnp.float32)
  return Averages(
    jnp.zeros((), jnp.int32), zeros(2, 3), zeros(), zeros(2, 2), zeros(3, 5))


def update(averages: Averages, sample: Estimate, decay: Scalar) -> Averages:
  """Add one step."""
  count, sums, square, last, spread = averages
  x = jnp.stack([sample.sq_norm, sample.variance]).astype(jnp.float32)
  bend = (x - 2 * last[0] + last[1]) / jnp.sqrt(6.)
  known = jnp.where(count >= 2, 1., 0.)
  products = known * jnp.stack(
    [jnp.float32(1), bend[0]**2, bend[0] * bend[1], bend[1]**2]
  )
  ones = jnp.ones(1, jnp.float32)
  # Everything seen so far moves one step back: j becomes j + 1.
  square = (square + 2 * sums[1, 0] + sums[0, 0]) * decay
  sums = jnp.stack([sums[0], sums[0] + sums[1]]) * decay
  spread = jnp.stack([
    spread[0], spread[0] + spread[1], spread[0] + 2 * spread[1] + spread[2]
  ]) * decay**2
  return Averages(
    count=count + 1,
    sums=sums.at[0].add(jnp.concatenate([ones, x])),
    square=square,
    last=jnp.stack([x, last[0]]),
    spread=spread.at[0].add(jnp.concatenate([ones, products])),
  )


def average(averages: Averages) -> Estimate:
  """Compute the debiased exponential averages; NaN before the first step."""
  weight, sq_norm, variance = averages.sums[0]
  weight = jnp.where(averages.count == 0, jnp.nan, weight)
  return Estimate(sq_norm / weight, variance / weight)


def present(averages: Averages) -> Estimate:
  """Compute the local linear fit at the present step; NaN before the third."""
  (sq_norm, variance), _ = _fit(averages)
  return Estimate(sq_norm, variance)


def interval(
  averages: Averages, decay: Scalar, *, level: Scalar = 0.95
) -> Interval:
  """Compute the confidence interval of 1/B_S at the present step."""
  freedom = _freedom(averages.count, decay)
  a, b, c, _ = _fieller(averages, _student(freedom, level))
  root = jnp.sqrt(jnp.maximum(b**2 - a * c, 0.))
  bounded = (a > 0) & (freedom >= 1)
  safe = jnp.where(bounded, a, 1.)
  least = jnp.where(bounded, jnp.clip((b - root) / safe, 0., 1.), 0.)
  most = jnp.where(bounded, jnp.clip((b + root) / safe, 0., 1.), 1.)
  now = average(averages)
  plain = now.sq_norm / (now.sq_norm + now.variance)
  # The distance between average and middle has 0.45 of the level's standard
  # deviation: chance takes it beyond half of the half width once in twenty.
  # At the drifts simulated, of 30 to 100 % over 1/(1 − β) steps, up to one run
  # in sixteen was both trusted and wrong, more than the nominal one in twenty.
  lags = jnp.abs(plain - (least + most) / 2) > 0.25 * (most - least)
  known = bounded & (freedom >= _LEAST_FREEDOM) & (
    (0 < least) & (most <= 2 * least))
  end = lambda p: Estimate(p, 1 - p)
  return Interval(lower=end(most), upper=end(least), is_trusted=known & ~lags)


def window(
  averages: Averages, decay: Scalar, *, level: Scalar = 0.95
) -> jax.Array:
  """Return the steps averaged over, or 0 unless B_S is known to a factor of 2.

  The steps are counted by their weight: 1/(1 − β) of them in the long run.
  """
  ends = interval(averages, decay, level=level)
  # The ends are p = 1/B_S, so that the lower end has the larger one.
  known = (0 < ends.upper.sq_norm) & (
    ends.lower.sq_norm <= 2 * ends.upper.sq_norm) & (
    _freedom(averages.count, decay) >= _LEAST_FREEDOM)
  steps = jnp.round(averages.sums[0, 0]).astype(jnp.int32)
  return jnp.where(known, steps, 0)


def batch_size_at_least(
  averages: Averages, decay: Scalar, *, level: Scalar = 0.95
) -> jax.Array:
  """Compute the lower confidence bound on B_S, at least 1.

  1/B_S may be any p that a one-sided test does not find too large. From p = 1
  downwards, these begin at a root of Fieller's quadratic, unless p = 1 itself
  is one of them.

  Student's t is that of the two-sided interval, with which the bound holds in
  at least 93 % of simulations at a nominal 95 %. With the one-sided t it would
  in as few as 90 %, because estimates of G that are too small come with
  variances that are too small.
  """
  freedom = _freedom(averages.count, decay)
  a, b, c, q = _fieller(averages, _student(freedom, level))
  # q is the quadratic at p = 1, for S alone.
  excludes_one = (q > 0) & (_fit(averages)[0][1] > 0) & (freedom >= 1)
  root = jnp.sqrt(jnp.maximum(b**2 - a * c, 0.))
  # Two forms of one root, of which one divides by a sum, not a difference.
  safe = lambda x: jnp.where(x == 0, 1., x)
  most = jnp.where(b > 0, (b + root) / safe(a), c / safe(b - root))
  return 1 / jnp.where(excludes_one, jnp.clip(most, 0., 1.), 1.)


def _fieller(averages, t):
  """Return a, b, c of a p² − 2 b p + c, and its value at p = 1.

  With m = G + S, it is negative or zero where |p m − G| is at most t times its
  standard deviation.
  """
  (sq_norm, variance), (gg, gs, ss) = _fit(averages)
  mm, gm = gg + 2 * gs + ss, gg + gs
  m = sq_norm + variance
  a = m**2 - t**2 * mm
  b = m * sq_norm - t**2 * gm
  c = sq_norm**2 - t**2 * gg
  return a, b, c, variance**2 - t**2 * ss


def _fit(averages):
  """Fit a line to the steps; return its value now and the covariance."""
  _, ((s0, g0, v0), (s1, g1, v1)), s2, _, spread = averages
  scale = s0 * s2 - s1**2
  scale = jnp.where(averages.count < 3, jnp.nan, scale)
  # The weight of step j is βʲ (s2 − s1 j) / scale.
  fit = lambda x0, x1: (s2 * x0 - s1 * x1) / scale
  squares = (
    s2**2 * spread[0] - 2 * s1 * s2 * spread[1] + s1**2 * spread[2]
  ) / scale**2
  # Differences are known of all but the first two steps.
  covariance = squares[0] * squares[2:] / squares[1]
  return (fit(g0, g1), fit(v0, v1)), covariance


def _freedom(count, decay):
  """Count the degrees of freedom of the variance of the level.

  Squared weights (2 − 3j/t)² of a plain fit over t steps count as t/2.2 equal
  ones, and at most 0.60/(1 − β) under exponential weights; overlapping second
  differences count as 1/1.94 independent ones each.
  """
  steps = jnp.maximum(count - 2, 0).astype(jnp.float32)
  return jnp.minimum(steps / 2.2, 0.6 / (1 - decay)) / 1.94


def _student(freedom, level):
  """Expand Student's quantile around the normal one (Cornish and Fisher)."""
  z = _normal_quantile((1 + level) / 2)
  v = jnp.maximum(freedom, 1.)
  return (
    z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
  )


def _normal_quantile(probability):
  if isinstance(probability, float):
    return statistics.NormalDist().inv_cdf(probability)
  return jax.scipy.special.ndtri(probability)
