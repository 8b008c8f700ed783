"""Gradient agreement filtering of the micro-steps of one device.

The same pass as `aggregate_by_agreement` makes over workers, one gradient at
a time. Only the aggregate so far is kept, not the gradients.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradiv import weightings
from gradiv._common import checks, counting, stateful, trees


class AccumulateByAgreementState(NamedTuple):
  """State of `accumulate_by_agreement`.

  A round is one pass over `num_micro_steps` gradients.

  Attributes:
    count: Number of rounds completed so far.
    micro_step: Number of gradients seen in this round.
    ready: Whether the last update completed a round that agreed.
    num_agreed: Number of gradients that agreed in this round so far.
    num_left_out: Number of gradients left out so far because they were not
      finite.
    num_empty: Number of rounds so far in which too few gradients agreed.
    aggregate: Σ w_i g_i over those that agreed, in at least float32.
    sum_squares: Σ w_i².
    anchor: First gradient of the round, for combine='first'; else ().
  """

  count: jax.Array
  micro_step: jax.Array
  ready: jax.Array
  num_agreed: jax.Array
  num_left_out: jax.Array
  num_empty: jax.Array
  aggregate: Any
  sum_squares: jax.Array
  anchor: Any


def accumulate_by_agreement(
  max_cosine_distance: weightings.Threshold,
  num_micro_steps: int,
  *,
  combine: str = 'running_mean',
  min_agreed: int = 2,
  count_aware: bool = False,
) -> optax.GradientTransformationExtraArgs:
  """Average the gradients of successive micro-steps that agree.

  Use it for gradient accumulation on one device: it decides as
  `aggregate_by_agreement` with the micro-steps as workers, in the memory of
  one gradient (two with combine='first'). The update is zero until the last
  of `num_micro_steps`, and there too if fewer than `min_agreed` gradients
  agree, so wrap the optimizer in `skip_zero_updates`.

  Args:
    max_cosine_distance: τ, from 0 to 2, or a schedule of it over rounds.
    num_micro_steps: Number of gradients per round, at least `min_agreed`.
    combine: How gradients join: 'running_mean', 'halving' or 'first'; see
      `weightings.agreement`.
    min_agreed: Number of gradients that must agree.
    count_aware: Whether to be stricter with a mean of many gradients than with
      a single one.

  >>> tx = accumulate_by_agreement(0.9, num_micro_steps=3)
  >>> state = tx.init(jnp.zeros(2))
  >>> for g in ([1., 2.], [2., 1.], [-3., 0.]):  # the last one disagrees
  ...   update, state = tx.update(jnp.array(g), state)
  >>> update.tolist(), int(state.num_agreed)
  ([1.5, 1.5], 2)
  """
  weightings.agreement(max_cosine_distance, combine=combine,
                       min_agreed=min_agreed)  # checks its arguments
  if combine == 'leave_one_out':
    raise ValueError(f'combine={combine!r}: needs all gradients at once; with '
                     "micro-steps, 'running_mean', 'halving' or 'first'")
  checks.count('num_micro_steps', num_micro_steps, min_agreed)

  def init_fn(params):
    return AccumulateByAgreementState(
      count=jnp.zeros((), jnp.int32),
      micro_step=jnp.zeros((), jnp.int32),
      ready=jnp.zeros((), bool),
      num_agreed=jnp.zeros((), jnp.int32),
      num_left_out=jnp.zeros((), jnp.int32),
      num_empty=jnp.zeros((), jnp.int32),
      aggregate=trees.zeros_wide(params),
      sum_squares=jnp.zeros((), jnp.float32),
      anchor=trees.zeros_wide(params) if combine == 'first' else ())

  def update_fn(updates, state, params=None, **extra_args):
    del params, extra_args
    trees.check_floating(updates)
    limit = (max_cosine_distance(state.count) if callable(max_cosine_distance)
             else max_cosine_distance)
    state = _clear_if_first(state)
    state = _join_if_close(
      state, updates, jnp.asarray(limit, jnp.float32), combine, count_aware)
    state = _end_if_last(state, num_micro_steps, min_agreed)
    result = jax.tree.map(
      lambda m, x: jnp.where(state.ready, m, 0).astype(x.dtype),
      state.aggregate, updates)
    return result, state

  return stateful.transformation(
    init_fn, update_fn, AccumulateByAgreementState,
    like_params=('aggregate', 'anchor'))


def _clear_if_first(state):
  """Forget the last round at the first gradient of a new one."""
  clear = lambda tree: trees.keep_if(state.micro_step > 0, tree)
  return state._replace(
    num_agreed=clear(state.num_agreed), aggregate=clear(state.aggregate),
    sum_squares=clear(state.sum_squares), anchor=clear(state.anchor))


def _join_if_close(state, updates, limit, combine, count_aware):
  """Add a gradient to the aggregate if it is finite and close enough."""
  square, size = trees.sq_norm(updates), state.num_agreed
  finite = trees.is_usable(square)
  g = jax.tree.map(lambda x, m: x.astype(m.dtype),
                   trees.keep_if(finite, updates), state.aggregate)
  # A gradient of zero is no anchor: all others would disagree with it.
  agrees = finite & (square > 0) & (
    (size == 0) | _is_close(state, g, limit, combine, count_aware))
  keep, add = weightings.joining_weights(combine, size)
  anchor = state.anchor
  if combine == 'first':
    anchor = jax.tree.map(
      lambda a, x: jnp.where(agrees & (size == 0), x, a), anchor, g)
  return state._replace(
    num_agreed=size + agrees,
    num_left_out=counting.increment(state.num_left_out, ~finite),
    aggregate=jax.tree.map(
      lambda m, x: jnp.where(agrees, keep * m + add * x, m),
      state.aggregate, g),
    sum_squares=jnp.where(
      agrees, keep**2 * state.sum_squares + add**2, state.sum_squares),
    anchor=anchor)


def _is_close(state, g, limit, combine, count_aware):
  """Return whether a gradient is close to the aggregate, or to the anchor."""
  reference, sum_squares = (
    (state.anchor, 1.) if combine == 'first'
    else (state.aggregate, state.sum_squares))
  allowed = weightings.allowed_distance(
    limit, jnp.where(state.num_agreed > 0, sum_squares, 1.), count_aware)
  distance = weightings.cosine_distance(
    trees.dot(reference, g), trees.sq_norm(reference), trees.sq_norm(g))
  return distance <= allowed


def _end_if_last(state, num_micro_steps, min_agreed):
  """Count a gradient, and the round if it was the last one."""
  ends = state.micro_step + 1 == num_micro_steps
  ready = ends & (state.num_agreed >= min_agreed)
  return state._replace(
    count=counting.increment(state.count, ends),
    micro_step=jnp.where(ends, 0, state.micro_step + 1),
    ready=ready,
    num_empty=counting.increment(state.num_empty, ends & ~ready))
