"""A leading axis of workers in place of a named one, as optax has it."""

from typing import Any

import jax
import optax

from gradiv import workers


def as_aggregator(
  tx: optax.GradientTransformation, axis_name: workers.AxisName
) -> Any:
  """Let a rule aggregate over a leading axis instead of a named one.

  Use it with `optax.experimental.aggregating`, whose `process` then skips the
  optimizer on steps in which nothing agreed.

  Args:
    tx: Transformation that aggregates over `axis_name`.
    axis_name: Name, or names, that `tx` was created with.

  Returns:
    An `optax.experimental.aggregating.Aggregator`. Its updates have one
    leading axis per name, with one row per worker; its result has none.

  Raises:
    ImportError: If optax is older than 0.2.7.

  >>> import gradiv, jax.numpy as jnp
  >>> tx = as_aggregator(gradiv.aggregate_by_mean('examples'), 'examples')
  >>> mean, _ = tx.update(jnp.array([[1.], [3.]]), tx.init(jnp.zeros(1)))
  >>> mean.tolist()
  [2.0]
  """
  from optax.experimental import aggregating

  names = workers.names_of(axis_name)

  def update_fn(per_elt_updates, state, params=None, **extra_args):
    def one(g):
      return optax.with_extra_args_support(tx).update(
        g, state, params, **extra_args)

    for name in reversed(names):
      one = jax.vmap(one, axis_name=name, out_axes=None)
    return one(per_elt_updates)

  return aggregating.Aggregator(tx.init, update_fn)
