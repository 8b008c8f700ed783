"""Skip an optimizer on the steps whose update is zero."""

import functools

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv import workers
from gradiv._common import checks, trees


def skip_zero_updates(
  inner: optax.GradientTransformation,
  *,
  axis_name: workers.AxisName | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Skip the inner optimizer on steps whose updates are exactly zero.

  Use it behind a rule that returns zeros when it rejects a step, such as
  `aggregate_by_agreement`. An update of zero is not "no step": momentum
  carries on, weight decay shrinks the parameters, and schedules advance. Here
  the update stays zero and the state of `inner` stays as it was.

  Args:
    inner: Optimizer, or any other transformation. It always runs, so that its
      collectives meet on all workers; its result is dropped on zero steps.
    axis_name: Axes over which each worker sees only a part of the updates, as
      with ``sharded=True`` or `Layout.sharded_over`; all parts have to be
      zero. By default every worker sees the whole update.

  >>> tx = skip_zero_updates(optax.sgd(1., momentum=0.9))
  >>> _, state = tx.update(jnp.ones(1), tx.init(jnp.ones(1)))
  >>> update, _ = tx.update(jnp.zeros(1), state)
  >>> float(update[0])  # without the wrapper: -0.9
  0.0
  """
  if axis_name is not None:
    workers.names_of(axis_name)
  inner = checks.transformation('inner', inner)

  def update_fn(updates, state, params=None, **extra_args):
    any_not_zero = functools.reduce(
      jnp.logical_or, (jnp.any(x != 0) for x in jax.tree.leaves(updates)),
      jnp.array(False))
    if axis_name is not None:
      any_not_zero = lax.pmax(workers.as_private(
        any_not_zero.astype(jnp.int32), axis_name), axis_name) > 0
    moved = inner.update(updates, state, params, **extra_args)
    skipped = optax.tree.zeros_like(moved[0]), state
    return trees.select(any_not_zero, moved, skipped)

  return optax.GradientTransformationExtraArgs(inner.init, update_fn)
