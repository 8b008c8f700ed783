"""The plain average of the workers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradiv import workers
from gradiv._common import (
  counting,
  early_sums,
  layout as layouts,
  stateful,
  trees,
)
from gradiv.aggregation._exchange import membership


class AggregateByMeanState(NamedTuple):
  """State of `aggregate_by_mean`.

  Attributes:
    num_left_out: Number of gradients left out so far because they were not
      finite.
  """

  num_left_out: jax.Array


def aggregate_by_mean(
  axis_name: workers.AxisName,
  *,
  layout: layouts.Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Average the gradients of the workers.

  The baseline for every other rule, and the right choice when workers need
  not be told apart. u = ḡ = (1/n) Σ g_i, summed in at least float32 and
  rounded once to the dtype of the gradient.

  Args:
    axis_name: Axis, or axes, of the workers.
    layout: Layout of the gradients: with `sharded_over`, a worker is left out
      if any of its shards is not finite. `mean_over` and `groups` would not
      change a mean, and are not supported.

  >>> tx = optax.chain(aggregate_by_mean('workers'), optax.sgd(1.))
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> jax.jit(jax.vmap(step, axis_name='workers', out_axes=None))(
  ...     jnp.array([[1., 2.], [3., 6.], [jnp.inf, 0.]])).tolist()
  [-2.0, -4.0]

  The third worker is left out.
  """
  participants = membership.Participants.of(
    axis_name, layout, unsupported=('mean_over', 'groups'))

  def init_fn(params):
    del params
    return AggregateByMeanState(jnp.zeros((), jnp.int32))

  def update_fn(updates, state, params=None, **extra_args):
    del params, extra_args
    workers.check_private(updates, axis_name)
    trees.check_floating(updates, or_complex=True)
    mean, count = early_sums.mean_of_finite(
      updates, participants.layout, axis_name)
    left_out = participants.count - count.astype(jnp.int32)
    mean = jax.tree.map(lambda m, g: m.astype(g.dtype), mean, updates)
    return mean, AggregateByMeanState(
      counting.increment(state.num_left_out, left_out))

  return stateful.transformation(init_fn, update_fn, AggregateByMeanState)
