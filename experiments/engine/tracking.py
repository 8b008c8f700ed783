"""What a run can record of its gradients, for the figures of its report."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import gradiv
from experiments.engine import advising


class GramState(NamedTuple):
  """State of `keep_gram`: the inner products of the last step, [n, n]."""

  gram: jax.Array


def keep_gram(num_workers: int, axis_name: gradiv.AxisName = 'workers'
              ) -> optax.GradientTransformation:
  """Keep the Gram matrix of the workers' gradients; pass these on unchanged.

  Put it before the aggregation. It costs half an all-reduce at each step, and
  `tracked` records it.

  Args:
    num_workers: Along the axis.
    axis_name: Of the workers.
  """
  def update(updates, state, params=None):
    del state, params
    return updates, GramState(gradiv.worker_gram(updates, axis_name))

  return optax.GradientTransformation(
    lambda params: GramState(jnp.full((num_workers, num_workers), jnp.nan)),
    update)


def tracked(opt_state: Any, names: Sequence[str] = ()) -> dict[str, jax.Array]:
  """Flatten what an optimizer has tracked into numbers to record.

  `engine.fit` does so where it is given no `read`. Of several states of
  `gradiv.track_moments` or `keep_gram` it takes the first of each.

  Args:
    opt_state: Any tree; where it tracks nothing, there is nothing to record.
    names: Those of the groups where moments are tracked by groups, from
      `gradiv.group_names`; without, only the whole gradient is recorded.

  Returns:
    'sq_norm' and 'variance', the averages of ‖∇F‖² and tr Σ, and the same with
    '/name' of each group. 'batch_size_bound' with 'batch_size_bound_low' and
    '_high' is B_S over the last 'window' steps; where it is not known to a
    factor of two, it is NaN, and 'batch_size_at_least' is what is known.
    'worker_gram' is [n, n].
  """
  found = {}
  if (state := advising.first_tracker(opt_state)) is not None:
    reading = gradiv.read_moments(state)
    groups, whole = ((reading, reading.whole) if reading.whole is not None
                     else (None, reading))
    found |= _whole(whole)
    for i, name in enumerate(names):
      for key in ('sq_norm', 'variance'):
        found[f'{key}/{name}'] = getattr(groups.average, key)[i]
  if (state := advising.first_of(GramState, opt_state)) is not None:
    found['worker_gram'] = state.gram
  return found


def _whole(reading):
  bound, is_known = gradiv.batch_size_bound, reading.window > 0
  low, high = reading.interval.of(bound)
  known = lambda x: jnp.where(is_known, x, jnp.nan)
  return {
    **reading.average._asdict(),
    'batch_size_bound': known(bound(reading.estimate)),
    'batch_size_bound_low': known(low), 'batch_size_bound_high': known(high),
    'window': reading.window,
    'batch_size_at_least': reading.batch_size_at_least}
