"""Rules that bear a few gradients that are wrong in any way whatever.

Of n gradients up to f may be arbitrary: broken, or chosen to do harm. No rule
can help unless n > 2f, and Krum's guarantee asks for n > 2f + 2; fewer are let
through where the formula still has a meaning. n counts the gradients that are
present; where absences leave too few for the formula, all weights are zero.
Among equals the lowest index is taken.
"""

import jax
import jax.numpy as jnp
from jax import lax

from gradiv._common import checks
from gradiv.weightings import core

# Of `geometric_median`: it stops once no weight moves by more than this share.
_TOLERANCE = 1e-5
# Below any distance, once the longest gradient has length one.
_TINY = 1e-19


def krum(
  num_byzantine: int,
  num_selected: int = 1,
  *,
  num_neighbours: int | None = None,
  power: float = 2,
) -> core.Weighting:
  """Average the few gradients that lie closest to their neighbours.

  score_i = Σ ‖g_i − g_j‖^power over the `num_neighbours` nearest j ≠ i, by
  default n − f − 2 of them; the m = `num_selected` of least score get 1/m.

  >>> gram = jnp.outer(jnp.arange(5.), jnp.arange(5.)).at[4, 4].set(1e6)
  >>> krum(1, 2)(gram).tolist()
  [0.0, 0.5, 0.5, 0.0, 0.0]

  The defaults are Krum as proposed, and with m > 1 Multi-Krum. Others differ:
  TorchJD has power=1; byzfl n − f − 1 neighbours (the mean of whose squares
  selects as their sum does) and m = n − f in Multi-Krum; Garfield power=1,
  n − f − 1 neighbours and m = n − f − 2.

  Blanchard et al., `Machine Learning with Adversaries: Byzantine Tolerant
  Gradient Descent <https://proceedings.neurips.cc/paper/2017/file/
  f4b9ec30ad9f68f89b29639786cb62ef-Paper.pdf>`_, 2017.

  Raises:
    ValueError: On a bad argument; and, while tracing, where n is less than
      f + 3 (or `num_neighbours` + 1) or m.
  """
  checks.count('num_byzantine', num_byzantine, 0)
  checks.count('num_selected', num_selected, 1)
  if num_neighbours is not None:
    checks.count('num_neighbours', num_neighbours, 1)
  checks.positive('power', power)
  least = max(num_selected, (num_neighbours or num_byzantine + 2) + 1)

  def weigh(gram, present):
    check_enough(len(gram), least, num_byzantine=num_byzantine,
                 num_selected=num_selected, num_neighbours=num_neighbours)
    near = num_neighbours or present.sum() - num_byzantine - 2
    scores = krum_scores(unit_sq_distances(gram), present, near, power)
    chosen = present & (ranks(scores) < num_selected)
    return jnp.where(present.sum() >= least, core.uniform(chosen), 0)

  return core.stateless(weigh, of_differences=True)


def krum_scores(
  sq_distances: jax.Array,
  present: jax.Array,
  num_neighbours: jax.typing.ArrayLike,
  power: float = 2,
) -> jax.Array:
  """Sum the distances to the nearest neighbours, itself not among them.

  >>> squares = jnp.array([[0., 1., 9.], [1., 0., 4.], [9., 4., 0.]])
  >>> krum_scores(squares, jnp.ones(3, bool), 1, 1).tolist()
  [1.0, 1.0, 2.0]

  Args:
    sq_distances: [n, n], ‖g_i − g_j‖²; scaled so that no power overflows.
    present: [n]. One that is not is no neighbour and has an infinite score.
    num_neighbours: May be traced; more than there are means all there are.
    power: Of the distances.
  """
  others = present[None, :] & ~jnp.eye(len(present), dtype=bool)
  squares = jnp.sort(jnp.where(others, sq_distances, jnp.inf), axis=1)
  near = (jnp.arange(len(present)) < num_neighbours)[None, :]
  squares = jnp.where(near & jnp.isfinite(squares), squares, 0)
  scores = jnp.power(squares, power / 2).sum(1)
  return jnp.where(present, scores, jnp.inf)


def geometric_median(
  num_steps: int = 100, smoothing: float = 1e-3
) -> core.Weighting:
  """Find the point of least summed distance: argmin_z Σ ‖g_i − z‖.

  Weiszfeld's steps w_i ∝ 1/max(ν, ‖g_i − z‖), z = Σ w_i g_i, begun at the mean
  of the densest half, which no minority can move far, and ended once no weight
  moves by a hundred-thousandth of itself. Where the minimum is not unique
  (n = 2, or even n on one line) it finds one.

  >>> gram = jnp.array([[0., 0., 0.], [0., 1., 9.], [0., 9., 81.]])
  >>> geometric_median()(gram).round(2).tolist()  # Of 0, 1 and 9.
  [0.0, 1.0, 0.0]

  Args:
    num_steps: At most.
    smoothing: ν, as a share of the radius of the smallest ball around a
      gradient that holds more than half of them. Where z comes closer than ν
      to a gradient it rests there, up to ν beside it.

  Pillutla et al., `Robust Aggregation for Federated Learning
  <https://arxiv.org/abs/1912.13445>`_, 2019.

  Raises:
    ValueError: On a bad argument.
  """
  checks.count('num_steps', num_steps, 1)
  checks.positive('smoothing', smoothing)

  def weigh(gram, present):
    gram = gram / core.largest_square(gram)
    start, radius = _densest_half(core.sq_distances(gram), present)
    floor = jnp.maximum(smoothing * radius, _TINY)

    def step(carry):
      weights, _, count = carry
      pull = 1 / jnp.maximum(distances_to(gram, weights), floor)
      pull = jnp.where(present, pull, 0)
      new = pull / jnp.maximum(pull.sum(), _TINY)
      moved = (jnp.abs(new - weights) > _TOLERANCE * new).any()
      return new, moved, count + 1

    # Read off `start`, so that under shard_map it varies as that does.
    carry = start, start[0] >= 0, 0
    return lax.while_loop(lambda c: c[1] & (c[2] < num_steps), step, carry)[0]

  return core.stateless(weigh, of_differences=True)


def nearest_neighbour_mixing(
  num_byzantine: int, then: core.Weighting = core.mean()
) -> core.Weighting:
  """Replace each gradient by the mean of those nearest to it, then weigh.

  J' = M J, where row i of M averages the n − f nearest to g_i, itself among
  them; `then` gives w' for the Gram M G Mᵀ, and the weights are Mᵀ w'. Rows
  that `then` has besides the gradients are not mixed.

  >>> gram = jnp.outer(jnp.array([0., 2., 99.]), jnp.array([0., 2., 99.]))
  >>> nearest_neighbour_mixing(1, krum(0))(gram).tolist()
  [0.5, 0.5, 0.0]

  Allouah et al., `Fixing by Mixing: A Recipe for Optimal Byzantine ML under
  Heterogeneity <https://arxiv.org/abs/2302.01772>`_, 2023.

  Raises:
    ValueError: On a bad argument; and, while tracing, unless n > f.
  """
  checks.count('num_byzantine', num_byzantine, 0)

  def step(gram, present, state, key):
    n = len(present)
    check_enough(n, num_byzantine + 1, num_byzantine=num_byzantine)
    size = present.sum() - num_byzantine
    present &= size > 0
    squares = unit_sq_distances(gram[:n, :n])
    mix = jnp.eye(len(gram), dtype=gram.dtype)
    mix = mix.at[:n, :n].set(_nearest(squares, present, size))
    mixed = core.dot(mix, core.dot(gram, mix.T))
    # Rounding must not leave a negative square there.
    mixed = jnp.where(jnp.eye(len(gram), dtype=bool), abs(mixed), mixed)
    weights, state = then.step(mixed, present, state, key)
    kept = core.with_extra(present, then.num_extra)
    return core.dot(jnp.where(kept, weights, 0), mix), state

  return core.Weighting(step, then.init, then.of_differences, then.num_extra,
                        then.needs_key, then.needs_size)


def centered_clipping(radius: float, num_steps: int = 1) -> core.Weighting:
  """Move from the last aggregate towards the gradients, each pulling a bit.

  v ← v + (1/n) Σ (g_i − v) min(1, τ/‖g_i − v‖), with τ the radius, begun at
  the extra row, such as the last aggregate, whose weight comes last.

  >>> centered_clipping(1.)(jnp.diag(jnp.array([16., 1., 0.]))).tolist()
  [0.125, 0.5, 0.375]

  Karimireddy et al., `Learning from History for Byzantine Robust Optimization
  <https://arxiv.org/abs/2012.10333>`_, 2021.

  Raises:
    ValueError: On a bad argument.
  """
  checks.positive('radius', radius)
  checks.count('num_steps', num_steps, 1)

  def weigh(gram, present):
    share = jnp.pad(core.uniform(present), (0, 1))
    unit = core.largest_square(gram)

    def step(weights, _):
      distances = distances_to(gram / unit, weights) * jnp.sqrt(unit)
      pull = share * radius / jnp.maximum(distances, radius)
      return weights * (1 - pull.sum()) + pull, None

    # All of it, so that under shard_map it varies as what follows does.
    start = 0 * share + 0 * gram[0] + (jnp.arange(len(gram)) == len(present))
    return lax.scan(step, start, length=num_steps)[0]

  return core.stateless(weigh, num_extra=1)


def unit_sq_distances(gram: jax.Array) -> jax.Array:
  """Return ‖g_i − g_j‖², the longest made one; exactly symmetric, for ties."""
  squares = core.sq_distances(gram / core.largest_square(gram))
  return (squares + squares.T) / 2


def distances_to(gram: jax.Array, weights: jax.Array) -> jax.Array:
  """Return ‖g_i − z‖, where z = Σ w_j g_j."""
  dots = core.dot(gram, weights)
  squares = jnp.diagonal(gram) - 2 * dots + core.dot(weights, dots)
  return jnp.sqrt(jnp.maximum(squares, 0))


def ranks(values: jax.Array) -> jax.Array:
  """Return the place of each in sorted order, along the last axis."""
  return jnp.argsort(jnp.argsort(values))


def _nearest(squares, present, size):
  """Rows that average the `size` nearest; of itself first of all."""
  squares = jnp.where(jnp.eye(len(present), dtype=bool), -1, squares)
  near = ranks(jnp.where(present[None, :], squares, jnp.inf)) < size
  near &= present[:, None] & present[None, :]
  return near / jnp.maximum(size, 1).astype(jnp.float32)


def _densest_half(squares, present):
  """Weigh the smallest ball around one that holds more than half of them."""
  pairs = present[:, None] & present[None, :]
  squares = jnp.where(pairs, squares, jnp.inf)
  radii = jnp.take(jnp.sort(squares, axis=1), present.sum() // 2, axis=1)
  inside = present & (squares[radii.argmin()] <= radii.min())
  return core.uniform(inside), jnp.sqrt(radii.min())


def check_enough(n: int, least: int, **given: int | None) -> None:
  """Raise ValueError where there are too few gradients for what is asked."""
  if n < least:
    given = ', '.join(f'{k}={v}' for k, v in given.items() if v is not None)
    raise ValueError(
      f'n={n} gradients with {given}: must be at least {least}')
