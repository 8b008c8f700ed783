"""A leading axis instead of a named one, as optax has it."""

from typing import Any

import jax
import optax

from gradiv import workers


def as_aggregator(
  tx: optax.GradientTransformation, axis_name: workers.AxisName
) -> Any:
  """Let `tx` aggregate over a leading axis instead of a named one.

  The result is an `optax.experimental.aggregating.Aggregator`: its updates
  have one leading axis for each name, of one row a worker, and its result has
  none. Within `aggregating.process`, a step in which nothing agreed leaves
  the optimizer as it is.

  >>> import gradiv, jax.numpy as jnp
  >>> tx = as_aggregator(gradiv.aggregate_by_mean('examples'), 'examples')
  >>> mean, _ = tx.update(jnp.array([[1.], [3.]]), tx.init(jnp.zeros(1)))
  >>> mean.tolist()
  [2.0]

  Raises:
    ImportError: Where optax is older than 0.2.7.
  """
  from optax.experimental import aggregating

  def update_fn(updates, state, params=None, **extra_args):
    def one(g):
      return optax.with_extra_args_support(tx).update(
        g, state, params, **extra_args)

    for name in reversed(workers.names_of(axis_name)):
      one = jax.vmap(one, axis_name=name, out_axes=None)
    return one(updates)

  workers.names_of(axis_name)
  return aggregating.Aggregator(tx.init, update_fn)
