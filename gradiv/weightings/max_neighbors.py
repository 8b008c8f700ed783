"""Agreement filtering without an order: the largest neighborhood wins."""

import jax
import jax.numpy as jnp

from gradiv._common import checks
from gradiv.weightings import _numbers, geometry, weighting


def max_neighbors(
  max_cosine_distance: jax.typing.ArrayLike
) -> weighting.Weighting:
  """Average the largest set of gradients that agree with one of them.

  Use it in place of `agreement` when the result must not depend on the order
  of the workers.

  Gradient i agrees with j if 1 − cos(g_i, g_j) ≤ τ. The gradients that agree
  with the most agreeable one, itself included, are averaged; ties go to the
  lowest index. If no two agree, or only one is present, all weights are zero.
  A zero gradient agrees with none.

  >>> gram = jnp.array([[1., 2., 0.], [2., 4., 0.], [0., 0., 1.]])
  >>> max_neighbors(.5)(gram).tolist()  # The third one is orthogonal.
  [0.5, 0.5, 0.0]

  Args:
    max_cosine_distance: τ, from 0 to 2; from 1 on orthogonal gradients agree.
      By rounding, the distance of equal gradients can be up to 2e-7.

  `lucidrains/GAF-microbatch-pytorch
  <https://github.com/lucidrains/GAF-microbatch-pytorch>`_ filters in this way,
  as a variant of Chaubard et al., `Beyond Gradient Averaging in Parallel
  Optimization <https://arxiv.org/abs/2412.18052>`_, 2024.
  """
  checks.within('max_cosine_distance', max_cosine_distance, 0, 2, one=True)
  max_cosine_distance = _numbers.as_float(max_cosine_distance)

  def weigh(gram, present):
    squares = jnp.diagonal(gram)
    alive = present & (squares > 0)
    squares = jnp.where(alive, squares, 1)
    distances = geometry.cosine_distance(
      gram, squares[:, None], squares[None, :])
    agree = (distances <= max_cosine_distance) | jnp.eye(len(gram), dtype=bool)
    agree &= alive[:, None] & alive[None, :]
    chosen = agree[agree.sum(1).argmax()]
    return jnp.where(chosen.sum() > 1, weighting.uniform(chosen), 0)

  return weighting.stateless(weigh, equal_pair=True)
