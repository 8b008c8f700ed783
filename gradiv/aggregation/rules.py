"""Rules of the Gram matrix that have a name of their own."""

from typing import Any

import optax

from gradiv import weightings, workers
from gradiv.aggregation import weighted


def aggregate_by_krum(
  num_byzantine: int,
  axis_name: workers.AxisName,
  *,
  num_selected: int = 1,
  num_neighbors: int | None = None,
  power: float = 2,
  **options: Any,
) -> optax.GradientTransformationExtraArgs:
  """Take the gradients that are nearest to their neighbours (multi-Krum).

  >>> import jax, jax.numpy as jnp
  >>> tx = aggregate_by_krum(1, 'workers')
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> jax.vmap(step, axis_name='workers', out_axes=None)(
  ...     jnp.array([[1.], [1.2], [1.3], [99.]])).tolist()
  [1.2000000476837158]

  Args:
    num_byzantine: See `weightings.krum`, also for what is not listed here.
    axis_name: The axis, or axes, over which the workers lie.
    num_selected: See `weightings.krum`.
    num_neighbors: See `weightings.krum`.
    power: See `weightings.krum`.
    **options: See `aggregate_by_weights`.

  Raises:
    ValueError: On a bad argument; and, while tracing, on too few workers.
  """
  rule = weightings.krum(num_byzantine, num_selected,
                         num_neighbors=num_neighbors, power=power)
  return weighted.aggregate_by_weights(rule, axis_name, **options)


def aggregate_by_geometric_median(
  axis_name: workers.AxisName,
  *,
  num_steps: int = 100,
  smoothing: float = 1e-3,
  **options: Any,
) -> optax.GradientTransformationExtraArgs:
  """Take the point with the least sum of distances to the gradients.

  >>> import jax, jax.numpy as jnp
  >>> tx = aggregate_by_geometric_median('workers')
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> jax.vmap(step, axis_name='workers', out_axes=None)(
  ...     jnp.array([[1.], [2.], [99.]])).round(3).tolist()
  [2.0]

  Args:
    axis_name: The axis, or axes, over which the workers lie.
    num_steps: See `weightings.geometric_median`.
    smoothing: See `weightings.geometric_median`.
    **options: See `aggregate_by_weights`.

  Raises:
    ValueError: On a bad argument.
  """
  rule = weightings.geometric_median(num_steps, smoothing)
  return weighted.aggregate_by_weights(rule, axis_name, **options)
