"""Where the examples of a batch lie, as far as types tell under `jax.jit`."""

from typing import Any

import jax
from jax.sharding import AxisType


def most_shards(arrays: list[Any]) -> int:
  """Return in how many shards the examples may lie: 1 if on one device.

  On a mesh with axes of type Auto, a traced array knows its mesh, but not how
  it is laid out; so the answer is the number of devices that may hold a part.
  """
  meshes = (jax.typeof(x).sharding.mesh for x in arrays)
  return max((_num_parts(mesh) for mesh in meshes), default=1)


def _num_parts(mesh):
  """Count the positions along axes that the compiler lays arrays over."""
  count = 1
  for size, kind in zip(mesh.axis_sizes, mesh.axis_types):
    count *= 1 if kind == AxisType.Manual else size
  return count
