"""The plain average of the workers."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradiv import workers
from gradiv._common import trees
from gradiv.aggregation._exchange import layout as wires


class AggregateByMeanState(NamedTuple):
  """State of `aggregate_by_mean`.

  Attributes:
    num_left_out: Gradients left out so far, as they were not finite.
  """

  num_left_out: jax.Array


def aggregate_by_mean(
  axis_name: workers.AxisName, **layout: Any
) -> optax.GradientTransformationExtraArgs:
  """Average the gradients of the workers: ḡ = (1/n) Σ g_i.

  Summed in at least float32 and rounded once to the dtype of the gradient.

  >>> tx = optax.chain(aggregate_by_mean('workers'), optax.sgd(1.))
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> jax.vmap(step, axis_name='workers', out_axes=None)(
  ...     jnp.array([[1., 2.], [3., 6.], [jnp.inf, 0.]])).tolist()
  [-2.0, -4.0]

  Args:
    axis_name: The axis, or axes, over which the workers lie.
    **layout: `sharded_over` and `is_sharded` of `gradiv.Wire`, so that a worker
      of which one shard is not finite is left out as a whole.

  Raises:
    ValueError: On a bad argument, and, while tracing, where the gradient has
      been reduced over the axis already.
  """
  wire = wires.Wire.of(axis_name, layout, ('sharded_over', 'is_sharded'))

  def init_fn(params):
    del params
    return AggregateByMeanState(jnp.zeros((), jnp.int32))

  def update_fn(updates, state, params=None, **extra_args):
    del params, extra_args
    workers.check_private(updates, axis_name)
    finite = wires.is_finite(updates, wire)
    mean, count = wires.mean_of_finite(
      trees.keep_if(finite, updates), finite, axis_name)
    left_out = workers.num_workers(axis_name) - count.astype(jnp.int32)
    return mean, AggregateByMeanState(state.num_left_out + left_out)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)
