"""Gradient agreement filtering of workers, and of micro-steps.

Chaubard, Eddy, Kochenderfer, `Beyond Gradient Averaging in Parallel
Optimization: Improved Robustness through Gradient Agreement Filtering
<https://arxiv.org/abs/2412.18052>`_, 2024.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv import aggregation, weightings, workers
from gradiv._common import checks, trees


def aggregate_by_agreement(
  max_cosine_distance: weightings.Threshold,
  axis_name: workers.AxisName,
  *,
  combine: str = 'running_mean',
  key: jax.Array | None = None,
  num_anchors: int = 1,
  min_agreed: int = 2,
  fallback: str = 'zero',
  count_aware: bool = False,
  window: int = 0,
  num_stddevs: float = 2.0,
  **options: Any,
) -> optax.GradientTransformationExtraArgs:
  """Average the workers' gradients that agree, by their cosine distance.

  In the order of the workers, g_i joins the aggregate m of those before it if
  1 − ⟨m, g_i⟩/(‖m‖‖g_i‖) ≤ τ. Exact, in the traffic of an all-reduce; the
  state tells what was decided, see `AggregateState`. Where fewer than
  `min_agreed` agree the update is zero: wrap what follows in
  `skip_zero_updates`, as decay and momentum would move. That looks at the
  whole update; with `groups`, one that is skipped alone goes on to coast.

  >>> tx = optax.chain(aggregate_by_agreement(0.9, 'workers'),
  ...                  skip_zero_updates(optax.sgd(1., momentum=0.9)))
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> jax.vmap(step, axis_name='workers', out_axes=None)(
  ...     jnp.array([[1., 2.], [2., 1.], [-3., 0.]])).tolist()
  [-1.5, -1.5]

  Args:
    max_cosine_distance: τ, from 0 to 2, or a schedule of it.
    axis_name: The axis, or axes, over which the workers lie.
    combine: 'running_mean', 'halving', 'first' or 'leave_one_out', see
      `weightings.agreement`, also for the arguments not listed here.
    key: Where given, the order of the workers, and the anchor with it, is
      drawn anew at each step.
    num_anchors: Try so many anchors until one finds agreement.
    min_agreed: How many must agree; where there are fewer workers, none do.
    fallback: 'zero', 'mean' or 'closest_pair'.
    count_aware: Be stricter with the mean of many than with one gradient.
    window: Steps of distances to adapt τ to; 0 does not.
    num_stddevs: See `window`.
    **options: See `aggregate_by_weights`.

  Raises:
    ValueError: On a bad argument; and, while tracing, where the gradient has
      been reduced over the axis already.
  """
  rule = weightings.agreement(
    max_cosine_distance, combine=combine, shuffle=key is not None,
    num_anchors=num_anchors, min_agreed=min_agreed, fallback=fallback,
    count_aware=count_aware, window=window, num_stddevs=num_stddevs)
  return aggregation.aggregate_by_weights(rule, axis_name, key=key, **options)


def skip_zero_updates(
  inner: optax.GradientTransformation,
  *,
  axis_name: workers.AxisName | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Let `inner` stand still where its updates are all exactly zero.

  An update of zero is not "no step": momentum moves on, decay shrinks the
  parameters, schedules tick. Here nothing does. `inner` always runs, and its
  result is dropped, so that its collectives meet on all workers.

  >>> tx = skip_zero_updates(optax.sgd(1., momentum=0.9))
  >>> _, state = tx.update(jnp.ones(1), tx.init(jnp.ones(1)))
  >>> update, _ = tx.update(jnp.zeros(1), state)
  >>> float(update[0])
  0.0

  Args:
    inner: An optimizer, or any transformation.
    axis_name: The axes over which each worker sees a part of the updates only,
      as with ``sharded=True`` or `sharded_over`: all parts have to be zero.

  Raises:
    ValueError: On a bad axis name.
  """
  if axis_name is not None:
    workers.names_of(axis_name)
  inner = optax.with_extra_args_support(inner)

  def update_fn(updates, state, params=None, **extra_args):
    leaves = jax.tree.leaves(updates)
    moves = functools.reduce(
      jnp.logical_or, (jnp.any(x != 0) for x in leaves), jnp.array(False))
    if axis_name is not None:
      moves = lax.pmax(
        workers.as_private(moves.astype(jnp.int32), axis_name), axis_name) > 0
    result = inner.update(updates, state, params, **extra_args)
    stay = optax.tree.zeros_like(result[0]), state
    return jax.tree.map(lambda new, old: jnp.where(moves, new, old),
                        result, stay)

  return optax.GradientTransformationExtraArgs(inner.init, update_fn)


class AccumulateByAgreementState(NamedTuple):
  """State of `accumulate_by_agreement`.

  Attributes:
    count: Rounds of micro-steps begun and ended so far.
    micro_step: Gradients seen in this round.
    ready: Whether the last update was the end of a round that agreed.
    num_agreed: Gradients that agreed in this round so far.
    num_left_out: Gradients left out so far, as they were not finite.
    num_empty: Rounds so far in which too few agreed.
    aggregate: Σ w_i g_i over those that agreed, at least float32.
    sum_squares: Σ w_i².
    anchor: The first gradient of the round, for combine='first'.
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
  """Filter the gradients of successive micro-steps by their agreement.

  The same as `aggregate_by_agreement` with the micro-steps as workers, on one
  device and in one gradient of memory (two with combine='first'). Gives zeros
  until the last of `num_micro_steps`, so wrap what follows in
  `skip_zero_updates`.

  >>> tx = accumulate_by_agreement(0.9, num_micro_steps=3)
  >>> state = tx.init(jnp.zeros(2))
  >>> for g in ([1., 2.], [2., 1.], [-3., 0.]):
  ...   update, state = tx.update(jnp.array(g), state)
  >>> update.tolist(), int(state.num_agreed)
  ([1.5, 1.5], 2)

  Args:
    max_cosine_distance: τ, from 0 to 2, or a schedule over rounds.
    num_micro_steps: Gradients of a round, at least `min_agreed`.
    combine: 'running_mean', 'halving' or 'first', see `weightings.agreement`.
    min_agreed: How many must agree.
    count_aware: Be stricter with the mean of many than with one gradient.

  Raises:
    ValueError: On a bad argument.
  """
  weightings.agreement(max_cosine_distance, combine=combine,
                       min_agreed=min_agreed)
  if combine == 'leave_one_out':
    raise ValueError(f'combine={combine!r}: needs all gradients at once; with '
                     "micro-steps, 'running_mean', 'halving' or 'first'")
  checks.count('num_micro_steps', num_micro_steps, min_agreed)

  def init_fn(params):
    zero = jnp.zeros((), jnp.int32)
    return AccumulateByAgreementState(
      count=zero, micro_step=zero, ready=jnp.zeros((), bool), num_agreed=zero,
      num_left_out=zero, num_empty=zero, aggregate=trees.zeros_wide(params),
      sum_squares=jnp.zeros((), jnp.float32),
      anchor=trees.zeros_wide(params) if combine == 'first' else ())

  def update_fn(updates, state, params=None, **extra_args):
    del params, extra_args
    fresh = state.micro_step == 0
    begin = lambda x: jnp.where(fresh, jnp.zeros_like(x), x)
    size, aggregate, anchor, sum_squares = jax.tree.map(begin, (
      state.num_agreed, state.aggregate, state.anchor, state.sum_squares))
    limit = (max_cosine_distance(state.count) if callable(max_cosine_distance)
             else max_cosine_distance)
    square = trees.sq_norm(updates)
    finite = trees.is_usable(square)
    g = jax.tree.map(lambda x, m: x.astype(m.dtype),
                     trees.keep_if(finite, updates), aggregate)
    reference = anchor if combine == 'first' else aggregate
    counts_for = 1. if combine == 'first' else sum_squares
    allowed = weightings.allowed_distance(
      jnp.asarray(limit, jnp.float32),
      jnp.where(size > 0, counts_for, 1.), count_aware)
    close = _distance(reference, g) <= allowed
    # A gradient of zero is no anchor: all would disagree with it.
    agrees = finite & (square > 0) & ((size == 0) | close)
    keep, share = weightings.joining_weights(combine, size)
    join = lambda m, x: jnp.where(agrees, keep * m + share * x, m)
    if combine == 'first':
      first = agrees & (size == 0)
      anchor = jax.tree.map(lambda a, x: jnp.where(first, x, a), anchor, g)
    aggregate = jax.tree.map(join, aggregate, g)
    size = size + agrees
    ends = state.micro_step + 1 == num_micro_steps
    ready = ends & (size >= min_agreed)
    result = jax.tree.map(
      lambda m, x: jnp.where(ready, m, 0).astype(x.dtype), aggregate, updates)
    return result, AccumulateByAgreementState(
      count=state.count + ends,
      micro_step=jnp.where(ends, 0, state.micro_step + 1),
      ready=ready, num_agreed=size,
      num_left_out=state.num_left_out + ~finite,
      num_empty=state.num_empty + (ends & ~ready),
      aggregate=aggregate,
      sum_squares=jnp.where(
        agrees, keep**2 * sum_squares + share**2, sum_squares),
      anchor=anchor)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _distance(m, g):
  return weightings.cosine_distance(
    trees.dot(m, g), trees.sq_norm(m), trees.sq_norm(g))
