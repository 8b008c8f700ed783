"""Krum and Multi-Krum: average the gradients with the closest neighbors."""

import jax
import jax.numpy as jnp

from gradiv._common import checks
from gradiv.weightings import _numbers, geometry, weighting


def krum(
  num_byzantine: int,
  num_selected: int = 1,
  *,
  num_neighbors: int | None = None,
  power: jax.typing.ArrayLike = 2,
) -> weighting.Weighting:
  """Average the gradients that lie closest to their neighbors.

  Use it when up to f workers may send arbitrary gradients and f is known. The
  guarantee needs n > 2f + 2. A larger `num_selected` reduces the variance.

  Each gradient is scored by score_i = Σ ‖g_i − g_j‖^power over its nearest
  neighbors j ≠ i. The m gradients with the lowest scores get the weight 1/m;
  ties go to the lowest index.

  >>> gram = jnp.outer(jnp.arange(5.), jnp.arange(5.)).at[4, 4].set(1e6)
  >>> krum(1, 2)(gram).tolist()  # The last one is far from the others.
  [0.0, 0.5, 0.5, 0.0, 0.0]

  Args:
    num_byzantine: f, the largest number of bad gradients.
    num_selected: m, the number of gradients to average. The default 1 is Krum;
      more is Multi-Krum.
    num_neighbors: Number of neighbors in a score; n − f − 2 by default, where
      n counts the gradients that are present.
    power: Power of the distances. 2 in the paper.

  Returns:
    A weighting that gives only zeros while absences leave fewer gradients than
    the formula needs: f + 3 (or `num_neighbors` + 1), and m.

  Raises:
    ValueError: While tracing, if n is less than that.

  Implementations differ in their defaults. TorchJD uses power=1. byzfl uses
  n − f − 1 neighbors, and m = n − f in Multi-Krum. Garfield uses power=1,
  n − f − 1 neighbors and m = n − f − 2.

  Blanchard et al., `Machine Learning with Adversaries: Byzantine Tolerant
  Gradient Descent <https://proceedings.neurips.cc/paper/2017/file/
  f4b9ec30ad9f68f89b29639786cb62ef-Paper.pdf>`_, 2017.
  """
  checks.count('num_byzantine', num_byzantine, 0)
  checks.count('num_selected', num_selected, 1)
  if num_neighbors is not None:
    checks.count('num_neighbors', num_neighbors, 1)
  checks.positive('power', power, one=True)
  power = _numbers.as_float(power)
  least = max(num_selected, (num_neighbors or num_byzantine + 2) + 1)

  def weigh(gram, present):
    _numbers.check_enough(
      len(gram), least, num_byzantine=num_byzantine,
      num_selected=num_selected, num_neighbors=num_neighbors)
    near = num_neighbors or present.sum() - num_byzantine - 2
    scores = krum_scores(
      geometry.unit_sq_distances(gram), present, near, power)
    chosen = present & (geometry.ranks(scores) < num_selected)
    return jnp.where(present.sum() >= least, weighting.uniform(chosen), 0)

  return weighting.stateless(weigh, of_differences=True)


def krum_scores(
  sq_distances: jax.Array,
  present: jax.Array,
  num_neighbors: jax.typing.ArrayLike,
  power: jax.typing.ArrayLike = 2,
) -> jax.Array:
  """Sum the distances from each gradient to its nearest neighbors.

  >>> squares = jnp.array([[0., 1., 9.], [1., 0., 4.], [9., 4., 0.]])
  >>> krum_scores(squares, jnp.ones(3, bool), 1, 1).tolist()
  [1.0, 1.0, 2.0]

  Args:
    sq_distances: ‖g_i − g_j‖², [n, n], scaled so that no power overflows.
    present: Which gradients take part, [n]. One that does not is nobody's
      neighbor and has an infinite score.
    num_neighbors: Number of neighbors, may be traced. If fewer are present,
      all of them count.
    power: Power of the distances.
  """
  others = present[None, :] & ~jnp.eye(len(present), dtype=bool)
  squares = jnp.sort(jnp.where(others, sq_distances, jnp.inf), axis=1)
  near = (jnp.arange(len(present)) < num_neighbors)[None, :]
  squares = jnp.where(near & jnp.isfinite(squares), squares, 0)
  scores = jnp.power(squares, power / 2).sum(1)
  return jnp.where(present, scores, jnp.inf)
