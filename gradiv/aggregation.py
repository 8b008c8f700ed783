"""Aggregation rules as optax transformations: the wire of a chain.

Under a named axis a rule takes each worker's gradient and gives every worker
the same one: the same tree in, the same tree out.
"""

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv import axes


def aggregate_by_mean(
  axis_name: axes.AxisName,
) -> optax.GradientTransformationExtraArgs:
  """Average the gradients of the workers: ḡ = (1/n) Σ g_i.

  Summed in at least float32 and rounded once to the dtype of the gradient.

  >>> tx = optax.chain(aggregate_by_mean('workers'), optax.sgd(1.))
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> jax.vmap(step, axis_name='workers', out_axes=None)(
  ...     jnp.array([[1., 2.], [3., 6.]])).tolist()
  [-2.0, -4.0]

  Raises:
    ValueError: On a bad axis name, and, while tracing, where the gradient has
      been reduced over the axis already.
  """
  axes.names_of(axis_name)

  def mean(g):
    wide = g.astype(jnp.promote_types(g.dtype, jnp.float32))
    n = axes.num_workers(axis_name)
    return (lax.psum(wide, axis_name) / n).astype(g.dtype)

  def update_fn(updates, state, params=None, **extra_args):
    del params, extra_args
    axes.check_private(updates, axis_name)
    return jax.tree.map(mean, updates), state

  return optax.GradientTransformationExtraArgs(
    optax.init_empty_state, update_fn
  )
