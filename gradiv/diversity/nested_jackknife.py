"""Intervals for the variance within and between clusters."""

import jax
import jax.numpy as jnp

from gradiv._common import checks
from gradiv.diversity import intervals
from gradiv.diversity.nested import (
  NestedEstimate,
  NestedMoments,
  nested_estimate,
  solve,
)

Scalar = jax.typing.ArrayLike


def nested_intervals(
  moments: NestedMoments, *, level: Scalar = 0.95
) -> tuple[NestedEstimate, NestedEstimate]:
  """Compute confidence intervals from a single sample.

  By the jackknife over clusters: each is left out in turn, and the spread of
  the results gives Student's interval with K − 1 degrees of freedom. Gradients
  need not be Gaussian, and their coordinates may be correlated in any way.

  Simulated with 8 or 16 clusters of 2 to 8 members and 20 coordinates, 95 %
  intervals of G, S_b and S_w hold the truth in 94 to 96 % of 4,000 samples if
  all parts are Gaussian, and in 91 to 96 % if they are Student's t with 5
  degrees of freedom. The fewer coordinates carry the noise, the more skewed the
  estimates are: with 16 clusters and one coordinate in 87 to 93 % (82 to 90 %),
  with 64 in 92 to 94 % (87 to 94 %). Where one cluster holds a quarter of the
  units, that of G is too wide: 98 %. Of averages over steps, take the spread of
  the steps instead.

  Args:
    moments: Of at least three clusters; NaN for fewer.
    level: Level of the intervals.

  Returns:
    Lower and upper ends, each in the form of a `NestedEstimate`. As none of the
    three can be negative in truth, ends below zero are zero.
  """
  checks.between('level', level, 0, 1)
  n, weight, within, deviation, along, of_mean = moments
  total = lambda x: jnp.sum(x, -1, keepdims=True)
  there = n > 0
  num = total(there)
  w = total(weight)
  between = total(weight * deviation)
  rest = jnp.where(w > weight, w - weight, jnp.nan)
  f = weight / rest
  # Without cluster c, the mean is ḡ − f (ḡ_c − ḡ).
  without = solve(
    total(n) - n, num - there, rest, total(weight**2) - weight**2,
    total(within) - within, between - deviation * w * f,
    of_mean[..., None] - 2 * f * along + f**2 * deviation)
  num = num[..., 0].astype(jnp.float32)
  t = intervals.student(num - 1, (1 + level) / 2)

  def ends(whole, others):
    pseudo = num[..., None] * whole[..., None] - (num[..., None] - 1) * others
    mean = jnp.sum(jnp.where(there, pseudo, 0.), -1) / num
    gap = jnp.where(there, pseudo - mean[..., None], 0.)
    half = t * jnp.sqrt(jnp.sum(gap**2, -1) / (num * (num - 1)))
    return jnp.maximum(whole - half, 0.), jnp.maximum(whole + half, 0.)

  pairs = [ends(*x) for x in zip(nested_estimate(moments), without)]
  lower, upper = zip(*pairs)
  return NestedEstimate(*lower), NestedEstimate(*upper)
