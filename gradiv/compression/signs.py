"""Keep the signs."""

import jax.numpy as jnp
import optax

from gradiv._common import trees
from gradiv.compression import _leafwise


def keep_signs() -> optax.GradientTransformation:
  """Keep the sign of each coordinate, and the mean magnitude of each leaf.

  Use it inside `with_error_feedback`, in front of the aggregation: on its own
  it is biased. C(v) = (‖v‖₁/d) sign(v) for a leaf with d coordinates, so that
  ‖C(v) − v‖² = ‖v‖² − ‖v‖₁²/d.

  Returns:
    A stateless transformation.

  Karimireddy et al., `Error Feedback Fixes SignSGD
  <https://arxiv.org/abs/1901.09847>`_, 2019.

  >>> tx = keep_signs()
  >>> tx.update(jnp.array([1., -3., 2.]), tx.init(jnp.zeros(3)))[0].tolist()
  [2.0, -2.0, 2.0]

  The mean magnitude is 2.
  """
  def compress(v):
    mean = jnp.sum(jnp.abs(trees.widen(v))) / max(v.size, 1)
    return (mean * jnp.sign(v)).astype(v.dtype)

  return _leafwise.compress_leaves(compress)
