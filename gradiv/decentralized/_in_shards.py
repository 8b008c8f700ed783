"""Whether what a worker has, or hears, is finite in all of its shards.

Each shard of a worker's parameters sees its own part, and all have to decide
alike: else one would take a neighbor that another leaves out. Over which axes
a worker lies in shards is in the types, under ``shard_map(check_vma=True)``.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gradiv import workers
from gradiv._common import compat, trees


def all_finite(tree: Any, axis_name: workers.AxisName) -> jax.Array:
  """Return whether a worker's tree is finite, in all of its shards."""
  return true_in_all(trees.all_finite(tree), axis_name)


def true_in_all(
  is_finite: jax.Array, axis_name: workers.AxisName
) -> jax.Array:
  """Return what is true in all shards of a worker; costs a psum of its size.

  Where types tell of no axis but the workers', nothing is sent.
  """
  shards = tuple(sorted(
    compat.varying_axes(is_finite) - {*workers.names_of(axis_name)}))
  if not shards:
    return is_finite
  return lax.psum((~is_finite).astype(jnp.int32), shards) == 0
