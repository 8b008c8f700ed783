"""Diagonal metrics: ‖g‖² = Σ d_j |g_j|², with a weight d_j per coordinate."""

from typing import Any

import jax
import jax.numpy as jnp

from gradiv._common import trees


def leaves_of(metric: Any, like: Any) -> list[jax.Array]:
  """Return the leaves of a metric, in at least float32.

  Args:
    metric: A tree of weights d.
    like: The gradient, or the parameters, that it must fit.

  Raises:
    ValueError: If it does not have leaves of the same shapes in the same order.
  """
  found = list(map(jnp.asarray, jax.tree.leaves(metric)))
  shapes = [jnp.shape(x) for x in jax.tree.leaves(like)]
  if [x.shape for x in found] != shapes:
    raise ValueError(
      f'metric with leaves of shapes {[x.shape for x in found]}: must be '
      f'weights like the gradient, with leaves of shapes {shapes}')
  trees.check_floating(found, 'metric')
  return trees.widen(found)


def roots_of(metric: Any, like: Any) -> list[list[jax.Array]]:
  """Return [√d of each leaf], or [] without a metric: ‖g‖² is ‖√d g‖²."""
  if metric is None:
    return []
  return [[jnp.sqrt(d) for d in leaves_of(metric, like)]]


def scaled(x: jax.Array, root: jax.Array | None = None) -> jax.Array:
  """Compute √d x of a leaf, or x without a metric."""
  return x if root is None else x * root


def sq_norm(tree: Any, roots: list[list[jax.Array]]) -> jax.Array:
  """Compute the squared norm of a tree, with what `roots_of` returned."""
  leaves = trees.widen(jax.tree.leaves(tree))
  return trees.sq_norm([scaled(*pair) for pair in zip(leaves, *roots)])
