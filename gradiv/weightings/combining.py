"""Rules that combine gradients pair by pair, by direction, or by sets."""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradiv._common import checks
from gradiv.weightings import core, filtering, robust

# A sum whose square is this share of what its terms could make has cancelled:
# what is left of it in float32 is rounding.
_CANCELLED = 1e-6
# Of `minimum_diameter`: subsets times pairs.
_MOST_COMPARISONS = 10 ** 7


def adasum() -> core.Weighting:
  """Add gradients two by two, each without half of what the other has of it.

  a ⊕ b = (1 − a·b/(2a·a)) a + (1 − a·b/(2b·b)) b: the sum of orthogonal
  gradients, the mean of equal ones. Those present are combined in their order
  over a binary tree: (0, 1), (2, 3), …, then the results likewise; an odd one
  moves up as it is. The coefficient of a zero vector is 1.

  >>> adasum()(jnp.eye(3)).tolist()
  [1.0, 1.0, 1.0]
  >>> adasum()(jnp.ones((2, 2))).tolist()
  [0.5, 0.5]

  Horovod decides for every tensor apart and takes powers of two only; here n
  is arbitrary, and all that is in the Gram is combined as one vector.

  Maleki et al., `Scaling Distributed Training with Adaptive Summation
  <https://arxiv.org/abs/2006.02924>`_, 2020.
  """

  def weigh(gram, present):
    n = len(gram)
    gram = gram / core.largest_square(gram)
    rows = jnp.eye(n, dtype=gram.dtype)[jnp.argsort(~present)]
    rows = jnp.where((jnp.arange(n) < present.sum())[:, None], rows, 0)
    while len(rows) > 1:
      rows = jnp.pad(rows, ((0, len(rows) % 2), (0, 0)))
      rows = _add_pairs(gram, rows[::2], rows[1::2])
    return rows[0]

  return core.stateless(weigh)


class AdaConsState(NamedTuple):
  """What `adacons` remembers.

  Attributes:
    count: int32, steps with any gradient present.
    averages: [n], of the coefficients, by rank.
  """

  count: jax.Array
  averages: jax.Array


def adacons(decay: float = 0.99) -> core.Weighting:
  """Mix the directions of the gradients by their share in the mean.

  α_i = g_i·ḡ/‖g_i‖, sorted, then averaged over the steps rank by rank:
  m ← decay m + (1 − decay) sort(α), at first m = sort(α). With the m of its
  rank for α_i, w_i = α_i/(Σ α ‖g_i‖): the update is a mix of unit vectors, of a
  length of at most Σ|α|/Σα. That is one where no gradient opposes the mean,
  whatever the lengths; where some do it may be long.

  >>> adacons()(jnp.diag(jnp.array([4., 1.]))).round(3).tolist()
  [0.3330000042915344, 0.3330000042915344]

  Where p < n gradients are present, ranks are read as quantiles: the p values
  are stretched to n, and m is read at p points, both linearly; without an m
  this is the rule for p. Where Σ α is not positive the directions count alike.
  A zero gradient has α = 0 and the weight 0.

  Args:
    decay: 0 makes a rule without memory.

  The published code gives worker i the average at the place sort⁻¹(i) in place
  of that at its rank, which differs from n = 3 on. Choukroun et al., `Adaptive
  Consensus Gradients Aggregation for Scaled Distributed Training
  <https://arxiv.org/abs/2411.03742>`_, 2024.

  Raises:
    ValueError: Unless 0 ≤ decay < 1.
  """
  if not 0 <= decay < 1:
    raise ValueError(f'decay={decay!r}: must be at least 0 and below 1')

  def step(gram, present, state, key):
    del key
    norms = jnp.sqrt(jnp.diagonal(gram))
    alive = present & (norms > 0)
    inverse = jnp.where(alive, 1 / jnp.where(alive, norms, 1), 0)
    given = jnp.maximum(present.sum(), 1)
    alphas, state = _smooth(
      inverse * gram.sum(1) / given, present, state, decay)
    total, size = alphas.sum(), jnp.abs(alphas).sum()
    sound = total > _CANCELLED * size
    shares = alphas / jnp.where(sound, total, 1)
    return jnp.where(sound, shares, core.uniform(alive)) * inverse, state

  def init(num_gradients):
    return AdaConsState(jnp.int32(0), jnp.zeros(num_gradients, jnp.float32))

  return core.Weighting(step, init, needs_size=True)


def max_neighbours(max_cosine_distance: float) -> core.Weighting:
  """Average the largest set of gradients that agree with one among them.

  Of the i of largest #{j: 1 − cos(g_i, g_j) ≤ τ}, the first where several are,
  the mean of those j. Where no two agree all weights are zero, as there is
  nothing to go by; for a gradient alone too. A zero gradient agrees with none.

  >>> gram = jnp.array([[1., 2., 0.], [2., 4., 0.], [0., 0., 1.]])
  >>> max_neighbours(.5)(gram).tolist()
  [0.5, 0.5, 0.0]

  Args:
    max_cosine_distance: τ, from 0 to 2; from 1 on orthogonal ones agree. The
      distance of equal gradients is up to 2e-7, by rounding.

  As `lucidrains/GAF-microbatch-pytorch
  <https://github.com/lucidrains/GAF-microbatch-pytorch>`_ does in place of the
  filter, dependent on order, of Chaubard et al., `Beyond Gradient Averaging in
  Parallel Optimization <https://arxiv.org/abs/2412.18052>`_, 2024.

  Raises:
    ValueError: Unless 0 ≤ τ ≤ 2.
  """
  checks.within('max_cosine_distance', max_cosine_distance, 0, 2)

  def weigh(gram, present):
    squares = jnp.diagonal(gram)
    alive = present & (squares > 0)
    squares = jnp.where(alive, squares, 1)
    distances = filtering.cosine_distance(
      gram, squares[:, None], squares[None, :])
    agree = (distances <= max_cosine_distance) | jnp.eye(len(gram), dtype=bool)
    agree &= alive[:, None] & alive[None, :]
    chosen = agree[agree.sum(1).argmax()]
    return jnp.where(chosen.sum() > 1, core.uniform(chosen), 0)

  return core.stateless(weigh, equal_pair=True)


def minimum_diameter(num_byzantine: int) -> core.Weighting:
  """Average the n − f gradients of least diameter.

  argmin over |S| = n − f of max ‖g_i − g_j‖ with i, j in S: all subsets are
  tried. Ties go to the set that is first in lexicographic order; where at most
  f gradients are present all weights are zero.

  >>> gram = jnp.outer(jnp.array([0., 2., 9.]), jnp.array([0., 2., 9.]))
  >>> minimum_diameter(1)(gram).tolist()
  [0.5, 0.5, 0.0]

  The MDA of El-Mhamdi et al., `Collaborative Learning in the Jungle
  <https://arxiv.org/abs/2008.00742>`_, 2021.

  Raises:
    ValueError: On a bad argument; and, while tracing, unless n > f, and where
      the subsets are too many: C(n, f) n² above 10⁷, as from n = 18, f = 7 on.
  """
  checks.count('num_byzantine', num_byzantine, 0)

  def weigh(gram, present):
    kept = jnp.asarray(_subsets(len(gram), num_byzantine)) & present[None, :]
    size = present.sum() - num_byzantine
    pairs = kept[:, :, None] & kept[:, None, :]
    squares = robust.unit_sq_distances(gram)[None]
    diameters = jnp.where(pairs, squares, 0).max((1, 2))
    best = jnp.where(kept.sum(1) == size, diameters, jnp.inf).argmin()
    return jnp.where(size > 0, core.uniform(kept[best]), 0)

  return core.stateless(weigh, of_differences=True)


def _add_pairs(gram, a, b):
  """Add rows of coefficients [k, n], a_i ⊕ b_i."""
  dot = lambda x, y: (core.dot(x, gram) * y).sum(1, keepdims=True)
  norms, across = jnp.sqrt(jnp.diagonal(gram))[None, :], dot(a, b)

  def shortened(x):
    square = dot(x, x)
    reach = jnp.square((jnp.abs(x) * norms).sum(1, keepdims=True))
    zero = square <= _CANCELLED * reach
    return jnp.where(zero, x, x - across / jnp.where(zero, 1, 2 * square) * x)

  return shortened(a) + shortened(b)


def _smooth(alphas, present, state, decay):
  """Average the coefficients of those present over the steps, by rank."""
  n, given, first = len(alphas), present.sum(), state.count == 0
  order = jnp.where(present, alphas, jnp.inf)
  ranks = robust.ranks(order)
  order = jnp.where(jnp.arange(n) < given, jnp.sort(order), 0)
  stretch = (given - 1) / max(n - 1, 1)
  stretched = _read(order, jnp.arange(n) * stretch)
  # One alone is compared with the median.
  places = jnp.where(given > 1, ranks / jnp.where(given > 1, stretch, 1),
                     (n - 1) / 2)
  blend = lambda old, new: jnp.where(
    first, new, decay * old + (1 - decay) * new)
  smooth = blend(_read(state.averages, places), alphas)
  averages = jnp.where(
    given > 0, blend(state.averages, stretched), state.averages)
  averages = averages.astype(state.averages.dtype)
  return jnp.where(present, smooth, 0), AdaConsState(
    state.count + (given > 0), averages)


def _read(values, places):
  """Read between the values, linearly."""
  places = jnp.clip(places, 0, len(values) - 1)
  below = jnp.floor(places).astype(jnp.int32)
  above = jnp.minimum(below + 1, len(values) - 1)
  share = places - below
  return (1 - share) * values[below] + share * values[above]


def _subsets(n, num_left_out):
  """Masks [subsets, n], in lexicographic order of what they keep."""
  robust.check_enough(n, num_left_out + 1, num_byzantine=num_left_out)
  if math.comb(n, num_left_out) * n ** 2 > _MOST_COMPARISONS:
    raise ValueError(
      f'num_byzantine={num_left_out} with n={n} gradients: must have '
      f'C(n, num_byzantine) n² of at most {_MOST_COMPARISONS}')
  left_out = list(itertools.combinations(range(n), num_left_out))[::-1]
  masks = np.ones((len(left_out), n), bool)
  np.put_along_axis(masks, np.array(left_out, int), False, 1)
  return masks
