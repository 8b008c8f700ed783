"""Minimum-diameter averaging: the subset whose members lie closest together."""

import itertools
import math

import jax.numpy as jnp
import numpy as np

from gradiv._common import checks
from gradiv.weightings import _numbers, geometry, weighting

# Largest number of subsets times pairs to compare.
_MAX_COMPARISONS = 10 ** 7


def minimum_diameter(num_byzantine: int) -> weighting.Weighting:
  """Average the n − f gradients with the smallest diameter.

  Use it when up to f < n/2 workers may send arbitrary gradients and n is
  small: all subsets are tried.

  S = argmin max_{i, j ∈ S} ‖g_i − g_j‖ over the sets with |S| = n − f. Ties go
  to the lexicographically first set.

  >>> gram = jnp.outer(jnp.array([0., 2., 9.]), jnp.array([0., 2., 9.]))
  >>> minimum_diameter(1)(gram).tolist()  # 0 and 2 are closer than 2 and 9.
  [0.5, 0.5, 0.0]

  Args:
    num_byzantine: f, the largest number of bad gradients; less than n. While
      at most f gradients are present, all weights are zero.

  Raises:
    ValueError: While tracing, if there are too many subsets: C(n, f) n² above
      10⁷, which n = 18 with f = 7 is the first to exceed.

  This is the MDA of El-Mhamdi et al., `Collaborative Learning in the Jungle
  <https://arxiv.org/abs/2008.00742>`_, 2021.
  """
  checks.count('num_byzantine', num_byzantine, 0)

  def weigh(gram, present):
    kept = jnp.asarray(_subsets(len(gram), num_byzantine)) & present[None, :]
    size = present.sum() - num_byzantine
    pairs = kept[:, :, None] & kept[:, None, :]
    squares = geometry.unit_sq_distances(gram)[None]
    diameters = jnp.where(pairs, squares, 0).max((1, 2))
    best = jnp.where(kept.sum(1) == size, diameters, jnp.inf).argmin()
    return jnp.where(size > 0, weighting.uniform(kept[best]), 0)

  return weighting.stateless(weigh, of_differences=True)


def _subsets(n, num_left_out):
  """List masks [subsets, n], in lexicographic order of what they keep."""
  _numbers.check_enough(n, num_left_out + 1, num_byzantine=num_left_out)
  if math.comb(n, num_left_out) * n ** 2 > _MAX_COMPARISONS:
    raise ValueError(
      f'num_byzantine={num_left_out} with n={n} gradients: must have '
      f'C(n, num_byzantine) n² of at most {_MAX_COMPARISONS}')
  left_out = list(itertools.combinations(range(n), num_left_out))[::-1]
  masks = np.ones((len(left_out), n), bool)
  np.put_along_axis(masks, np.array(left_out, int), False, 1)
  return masks
