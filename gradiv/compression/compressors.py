"""Biased compressors of one worker's gradient; for `with_error_feedback`."""

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv._common import trees


def keep_top_k(share: float) -> optax.GradientTransformation:
  """Keep the largest coordinates of each leaf, and set the others to zero.

  k = ⌈share · size⌉, so that ‖C(v) − v‖² ≤ (1 − k/d) ‖v‖² for a leaf of d.

  >>> tx = keep_top_k(0.5)
  >>> tx.update(jnp.array([1., -3., 2., 0.]), tx.init(jnp.zeros(4)))[0].tolist()
  [0.0, -3.0, 2.0, 0.0]

  Stich et al., `Sparsified SGD with Memory
  <https://arxiv.org/abs/1809.07599>`_, 2018.

  Args:
    share: Of the coordinates, above 0 and at most 1.

  Raises:
    ValueError: On a bad share.
  """
  if not 0 < share <= 1:
    raise ValueError(f'share={share!r}: must be above 0 and at most 1')

  def leaf(v):
    flat = v.ravel()
    # Less what a product such as 0.07 · 100 is too large by.
    count = min(flat.size, int(-(-flat.size * share * (1 - 1e-12) // 1)))
    _, places = lax.top_k(jnp.abs(flat), count)
    kept = jnp.zeros_like(flat).at[places].set(flat[places])
    return kept.reshape(v.shape)

  return _each_leaf(leaf)


def keep_signs() -> optax.GradientTransformation:
  """Keep the sign of each coordinate, and the mean magnitude of each leaf.

  C(v) = (‖v‖₁/d) sign(v), so that ‖C(v) − v‖² = ‖v‖² − ‖v‖₁²/d.

  >>> tx = keep_signs()
  >>> tx.update(jnp.array([1., -3., 2.]), tx.init(jnp.zeros(3)))[0].tolist()
  [2.0, -2.0, 2.0]

  Karimireddy et al., `Error Feedback Fixes SignSGD
  <https://arxiv.org/abs/1901.09847>`_, 2019.
  """
  def leaf(v):
    mean = jnp.sum(jnp.abs(trees.widen(v))) / max(v.size, 1)
    return (mean * jnp.sign(v)).astype(v.dtype)

  return _each_leaf(leaf)


def _each_leaf(fn):
  def apply(updates, params):
    del params
    trees.check_floating(updates, 'update')
    return jax.tree.map(fn, updates)

  return optax.stateless(apply)
