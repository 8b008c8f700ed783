"""Keep the largest coordinates."""

import numbers

import jax.numpy as jnp
import optax
from jax import lax

from gradiv.compression import _leafwise

# Relative rounding error of a product such as 0.07 · 100.
_ROUNDING = 1e-12


def keep_top_k(fraction: float) -> optax.GradientTransformation:
  """Keep the largest coordinates of each leaf, and set the others to zero.

  Use it inside `with_error_feedback`, in front of the aggregation: on its own
  it is biased. Of d coordinates it keeps k = ⌈fraction · d⌉, so that
  ‖C(v) − v‖² ≤ (1 − k/d) ‖v‖².

  Args:
    fraction: Fraction of the coordinates to keep, above 0 and at most 1. It
      decides shapes, so it must be a Python number.

  Returns:
    A stateless transformation.

  Stich et al., `Sparsified SGD with Memory
  <https://arxiv.org/abs/1809.07599>`_, 2018.

  >>> tx = keep_top_k(0.5)
  >>> tx.update(jnp.array([1., -3., 2., 0.]), tx.init(jnp.zeros(4)))[0].tolist()
  [0.0, -3.0, 2.0, 0.0]

  The two largest of four magnitudes are kept.
  """
  if not isinstance(fraction, numbers.Real) or not 0 < fraction <= 1:
    raise ValueError(f'fraction={fraction!r}: must be a Python number above 0 '
                     'and at most 1')

  def compress(v):
    flat = v.ravel()
    size = -(-flat.size * fraction * (1 - _ROUNDING) // 1)  # rounded up
    _, places = lax.top_k(jnp.abs(flat), min(flat.size, int(size)))
    kept = jnp.zeros_like(flat).at[places].set(flat[places])
    return kept.reshape(v.shape)

  return _leafwise.compress_leaves(compress)
