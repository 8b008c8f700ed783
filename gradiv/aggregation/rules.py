"""Rules of the Gram matrix that have a name of their own."""

from typing import Any

import optax

from gradiv import axes, weightings
from gradiv.aggregation import weights


def aggregate_by_krum(
  num_byzantine: int,
  axis_name: axes.AxisName,
  *,
  num_selected: int = 1,
  **options: Any,
) -> optax.GradientTransformationExtraArgs:
  """Take the gradients that are nearest to their neighbours (multi-Krum).

  See `weightings.krum`, and `aggregate_by_weights` for the options.

  >>> import jax, jax.numpy as jnp
  >>> tx = aggregate_by_krum(1, 'workers')
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> jax.vmap(step, axis_name='workers', out_axes=None)(
  ...     jnp.array([[1.], [1.2], [1.3], [99.]])).tolist()
  [1.2000000476837158]
  """
  return weights.aggregate_by_weights(
    weightings.krum(num_byzantine, num_selected), axis_name, **options)


def aggregate_by_geometric_median(
  axis_name: axes.AxisName, **options: Any
) -> optax.GradientTransformationExtraArgs:
  """Take the point with the least sum of distances to the gradients.

  See `weightings.geometric_median`, and `aggregate_by_weights` for the
  options.

  >>> import jax, jax.numpy as jnp
  >>> tx = aggregate_by_geometric_median('workers')
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> jax.vmap(step, axis_name='workers', out_axes=None)(
  ...     jnp.array([[1.], [2.], [99.]])).round(3).tolist()
  [2.0]
  """
  return weights.aggregate_by_weights(
    weightings.geometric_median(), axis_name, **options)
