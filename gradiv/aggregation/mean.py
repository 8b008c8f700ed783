"""The plain average of the workers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv import axes, moments


class AggregateByMeanState(NamedTuple):
  """State of `aggregate_by_mean`.

  Attributes:
    num_left_out: Gradients left out so far, as they were not finite.
  """

  num_left_out: jax.Array


def aggregate_by_mean(
  axis_name: axes.AxisName,
) -> optax.GradientTransformationExtraArgs:
  """Average the gradients of the workers: ḡ = (1/n) Σ g_i.

  Summed in at least float32 and rounded once to the dtype of the gradient.

  >>> tx = optax.chain(aggregate_by_mean('workers'), optax.sgd(1.))
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> jax.vmap(step, axis_name='workers', out_axes=None)(
  ...     jnp.array([[1., 2.], [3., 6.], [jnp.inf, 0.]])).tolist()
  [-2.0, -4.0]

  Raises:
    ValueError: On a bad axis name, and, while tracing, where the gradient has
      been reduced over the axis already.
  """
  axes.names_of(axis_name)

  def init_fn(params):
    del params
    return AggregateByMeanState(jnp.zeros((), jnp.int32))

  def update_fn(updates, state, params=None, **extra_args):
    del params, extra_args
    axes.check_private(updates, axis_name)
    finite = moments.is_finite(updates)
    count = lax.psum(finite.astype(jnp.float32), axis_name)

    def mean(g):
      wide = g.astype(jnp.promote_types(g.dtype, jnp.float32))
      return (lax.psum(wide, axis_name) / jnp.maximum(count, 1)).astype(g.dtype)

    left_out = axes.num_workers(axis_name) - count.astype(jnp.int32)
    return jax.tree.map(mean, moments.leave_out(updates, finite)), (
      AggregateByMeanState(state.num_left_out + left_out))

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
