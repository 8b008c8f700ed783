"""Whether the workers hold the same parameters.

Gradients can be compared only if they are gradients of the same parameters.
Under FSDP each worker holds a part of its own, and what is left of a gradient
after its reduce-scatter has the type of a gradient, but is a part of the mean.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gradiv import workers
from gradiv._common import layout as layouts, trees

# Elements of each leaf that are compared.
_SAMPLED = 16


def differ(
  params: Any, axis_name: workers.AxisName, layout: layouts.Layout
) -> jax.Array:
  """Return whether some sampled parameters differ between the workers.

  Args:
    params: Parameters of this worker, or its shard of them.
    axis_name: Axis, or axes, of the workers.
    layout: Layout of the parameters.
  """
  total = jnp.float32(0)
  for leaf in jax.tree.leaves(params):
    some = trees.widen(jnp.abs(leaf.ravel()[:_SAMPLED]))
    # Weighted by place, so that parts that hold the same numbers elsewhere
    # are told apart.
    total += jnp.sum(some * jnp.arange(1, some.size + 1)).astype(jnp.float32)
  ends = lax.pmax(
    workers.as_private(jnp.stack([total, -total]), axis_name), axis_name)
  gap = (ends[0] != -ends[1]).astype(jnp.float32)
  if layout.shard_names:
    gap = lax.psum(
      workers.as_private(gap, layout.shard_names), layout.shard_names)
  return gap > 0
