"""Averages of three statistics over looks, and intervals of their ratios."""

import math
import statistics
from typing import NamedTuple

import numpy as np

# Fewer degrees of freedom say too little about the variance of an average.
_LEAST_FREEDOM = 5


class Averages(NamedTuple):
  """Sums over the looks j = 0, 1, ... back from now, as numbers.

  Attributes:
    weight: Σ βʲ.
    square: Σ β²ʲ.
    sums: Σ βʲ x, of each statistic.
    products: Σ βʲ x y, of each pair of statistics: 11, 12, 13, 22, 23, 33.
  """

  weight: float = 0.
  square: float = 0.
  sums: tuple[float, ...] = (0.,) * 3
  products: tuple[float, ...] = (0.,) * 6

  def add(self, x: tuple[float, ...], decay: float) -> 'Averages':
    """Add one look."""
    pairs = np.outer(x, x)[np.triu_indices(3)]
    return Averages(
      weight=decay * self.weight + 1,
      square=decay**2 * self.square + 1,
      sums=tuple(float(decay * s + y) for s, y in zip(self.sums, x)),
      products=tuple(
        float(decay * s + y) for s, y in zip(self.products, pairs)))

  def ratio(
    self, over: tuple[int, ...], under: tuple[int, ...], level: float
  ) -> tuple[float, float, float]:
    """Compute a ratio of two combinations of the means, and its interval.

    The interval is Fieller's, for the fraction of `under` in the sum of both,
    which lies in [0, 1].

    Returns:
      Lower end, value, and upper end; (0, NaN, ∞) while nothing is known.
    """
    unknown = 0., math.nan, math.inf
    if not self.weight:
      return unknown
    looks = self.weight**2 / self.square
    if looks - 1 < _LEAST_FREEDOM:
      return unknown
    means = np.array(self.sums) / self.weight
    matrix = np.zeros((3, 3))
    matrix[np.triu_indices(3)] = np.array(self.products) / self.weight
    matrix = matrix + np.triu(matrix, 1).T - np.outer(means, means)
    covariance = matrix / (looks - 1)
    v, u = np.array(under, float), np.array(over, float)
    signal, total = v @ means, (u + v) @ means
    t = _student(looks - 1, level)
    a = total**2 - t**2 * ((u + v) @ covariance @ (u + v))
    b = total * signal - t**2 * ((u + v) @ covariance @ v)
    c = signal**2 - t**2 * (v @ covariance @ v)
    if a <= 0:
      return unknown
    root = math.sqrt(max(b**2 - a * c, 0))
    least, most = (b - root) / a, (b + root) / a
    return _odds(most), _odds(signal / total), _odds(least)


def _odds(fraction):
  """Compute 1/p − 1, of p clipped to [0, 1]."""
  fraction = float(np.clip(fraction, 0, 1))
  return 1 / fraction - 1 if fraction else math.inf


def _student(freedom, level):
  """Expand Student's quantile around the normal one (Cornish and Fisher)."""
  z = statistics.NormalDist().inv_cdf((1 + level) / 2)
  return z + (z**3 + z) / (4 * freedom) + (
    5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
