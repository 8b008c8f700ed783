"""Compressors that treat every leaf of one worker's gradient by itself."""

from collections.abc import Callable

import jax
import optax

from gradiv._common import trees


def compress_leaves(
  compress: Callable[[jax.Array], jax.Array],
) -> optax.GradientTransformation:
  """Create a stateless transformation that compresses leaf by leaf."""
  def apply(updates, params):
    del params
    trees.check_floating(updates, 'update')
    return jax.tree.map(compress, updates)

  return optax.stateless(apply)
