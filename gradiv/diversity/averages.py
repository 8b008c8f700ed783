"""Exponential averages of `Estimate` over steps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradiv.diversity.estimates import Estimate

Scalar = jax.typing.ArrayLike


class Averages(NamedTuple):
  """Running sums over the steps j = 0, 1, ... back from now.

  Attributes:
    count: int32, steps seen.
    sums: [3], Σ βʲ (1, G, S).
    last: [2], G and S of the last step.
  """

  count: jax.Array
  sums: jax.Array
  last: jax.Array


def init() -> Averages:
  """Return the averages before the first step."""
  return Averages(jnp.zeros((), jnp.int32), jnp.zeros(3, jnp.float32),
                  jnp.full(2, jnp.nan, jnp.float32))


def update(averages: Averages, sample: Estimate, decay: Scalar) -> Averages:
  """Add one step."""
  last = jnp.stack([sample.sq_norm, sample.variance]).astype(jnp.float32)
  step = jnp.concatenate([jnp.ones(1, jnp.float32), last])
  return Averages(
    averages.count + 1,
    (averages.sums * decay).astype(jnp.float32) + step, last)


def average(averages: Averages) -> Estimate:
  """Compute Σ βʲ x_{t−j} / Σ βʲ of G and of S; NaN before the first step."""
  weight, sq_norm, variance = averages.sums
  weight = jnp.where(averages.count == 0, jnp.nan, weight)
  return Estimate(sq_norm / weight, variance / weight)


def last(averages: Averages) -> Estimate:
  """Return the estimates of the last step; NaN before the first."""
  return Estimate(*averages.last)
