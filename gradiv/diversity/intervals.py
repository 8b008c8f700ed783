"""Confidence intervals for ratios of ‖∇F‖² and tr Σ.

The interval of a ratio is Fieller's: all p for which p·(G + S) − G is no
further from zero than Student's t allows. For p = 1/B_S in [0, 1] nothing is
divided by an uncertain ‖∇F‖².

Fieller, `Some Problems in Interval Estimation
<https://doi.org/10.1111/j.2517-6161.1954.tb00159.x>`_, 1954.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradiv.diversity.estimates import Estimate

Scalar = jax.typing.ArrayLike


class Interval(NamedTuple):
  """Confidence interval for every ratio of ‖∇F‖² and tr Σ.

  Each end is an `Estimate`, in units of the second moment ‖∇F‖² + tr Σ.

  Attributes:
    lower: End with the smallest batch-size bound.
    upper: End with the largest batch-size bound; its ‖∇F‖² may be 0.
    is_trusted: Whether B_S is known to within a factor of two.
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


class Means(NamedTuple):
  """Means of G and of M = G + S, and the covariance of the means.

  Attributes:
    signal: Mean of G.
    total: Mean of M.
    covariance: Its entries (GG, GM, MM).
  """

  signal: jax.Array
  total: jax.Array
  covariance: tuple[jax.Array, jax.Array, jax.Array]


def least(means: Means, t: Scalar) -> jax.Array:
  """Compute the lower end of p = 1/B_S, in [0, 1]: the smaller root."""
  a, b, _, root = _quadratic(means, t)
  return jnp.where(
    a > 0, jnp.clip((b - root) / jnp.where(a > 0, a, 1.), 0., 1.), 0.)


def most(means: Means, t: Scalar) -> jax.Array:
  """Compute the upper end of p = 1/B_S, in [0, 1].

  It is the largest p that a one-sided test does not reject. From p = 1
  downwards, these begin at a root of Fieller's quadratic, unless p = 1 itself
  is one of them. As ‖∇F‖² is never negative, a mean G below zero counts as
  zero: the end is then never below t standard deviations of it.
  """
  g, m, (gg, gm, mm) = means
  a, b, c, root = _quadratic(means, t)
  # The quadratic at p = 1, for S alone.
  excludes_one = (m > g) & ((m - g)**2 > t**2 * (gg - 2 * gm + mm))
  # Two forms of one root, of which one divides by a sum, not a difference.
  safe = lambda x: jnp.where(x == 0, 1., x)
  end = jnp.where(b > 0, (b + root) / safe(a), c / safe(b - root))
  end = jnp.where(
    g < 0, jnp.maximum(end, t * jnp.sqrt(jnp.maximum(gg, 0.)) / safe(m)), end)
  return jnp.where(excludes_one, jnp.clip(end, 0., 1.), 1.)


def fraction(means: Means) -> tuple[jax.Array, jax.Array]:
  """Estimate p = G/M, not clipped, and its standard deviation."""
  gg, gm, mm = means.covariance
  p = means.signal / means.total
  variance = gg - 2 * p * gm + p**2 * mm
  return p, jnp.sqrt(jnp.maximum(variance, 0.)) / means.total


def _quadratic(means, t):
  """Return a, b, c of a p² − 2 b p + c, and the root of b² − a c.

  It is negative or zero where |p M − G| is at most t times its standard
  deviation.
  """
  g, m, (gg, gm, mm) = means
  a, b, c = m**2 - t**2 * mm, m * g - t**2 * gm, g**2 - t**2 * gg
  return a, b, c, jnp.sqrt(jnp.maximum(b**2 - a * c, 0.))


def student(freedom: jax.Array, probability: Scalar) -> jax.Array:
  """Expand Student's quantile around the normal one (Cornish and Fisher)."""
  z = jax.scipy.special.ndtri(jnp.asarray(probability, jnp.float32))
  v = jnp.maximum(freedom, 1.)
  return (
    z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
    + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
  )
