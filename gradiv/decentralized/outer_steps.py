"""Local steps per worker, and now and then an outer step on their mean."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv import workers
from gradiv._common import checks, counting, stateful, trees
from gradiv.decentralized import _fragments, _in_shards, _pulls, _updates


class MixByOuterStepState(NamedTuple):
  """State of `mix_by_outer_step`; all but the last is the same on all workers.

  Attributes:
    count: Number of steps so far.
    anchor: θ, the common parameters, in at least float32.
    pending: Mean pseudo-gradients between their all-reduce and the outer step;
      () without a delay.
    outer: States of the outer optimizer, one per fragment.
    num_left_out: How often this worker has left out an update of its own, and
      a mean other workers, because they were not finite.
  """

  count: jax.Array
  anchor: optax.Params
  pending: Any
  outer: tuple
  num_left_out: jax.Array


def mix_by_outer_step(
  outer: optax.GradientTransformation,
  period: int,
  axis_name: workers.AxisName,
  *,
  num_fragments: int = 1,
  fragment_of: Callable[[tuple], int] | None = None,
  delay: int = 0,
  blend: float = 0.0,
) -> optax.GradientTransformationExtraArgs:
  """Take local steps, then apply an outer optimizer to their average.

  Use it as the last link of a chain when workers can only communicate now and
  then. `local_sgd`, `mix_by_slow_momentum` and `diloco` are special cases; use
  this for any other outer optimizer. With the common parameters θ, and the
  workers' x_i after H steps of their own,

    Δ = θ − (1/n) Σ x_i,   θ ← θ + outer(Δ),   x_i ← (1 − a) θ + a x_i

  All workers must start from the same parameters, which `init` stores as θ.

  To spread the communication over time (Streaming DiLoCo), split the parameters
  into F fragments. One of them is synchronized every H/F steps, in turn. With a
  delay, Δ is taken that many steps before it is used, which hides its
  all-reduce behind computation; a > 0 keeps that fraction of a worker's own
  steps.

  >>> import gradiv
  >>> tx = optax.chain(optax.sgd(0.5), mix_by_outer_step(
  ...     optax.sgd(1.0), period=2, axis_name='workers'))
  >>> def run(c):  # The loss of a worker is (x − c)²/2.
  ...   x = jnp.zeros(())
  ...   state = tx.init(x)
  ...   for _ in range(2):
  ...     updates, state = tx.update(x - c, state, x)
  ...     x = optax.apply_updates(x, updates)
  ...   return x
  >>> gradiv.map_workers(run, 'workers')(jnp.array([0., 4.])).tolist()
  [1.5, 1.5]

  After two steps alone the workers are at 0 and 3, whose mean is 1.5.

  Douillard et al., `DiLoCo <https://arxiv.org/abs/2311.08105>`_, 2023, and
  `Streaming DiLoCo <https://arxiv.org/abs/2501.18512>`_, 2025.

  Args:
    outer: Optimizer of θ. Each fragment has its own state, and a tree with the
      structure of the parameters in which the leaves of other fragments are
      `optax.MaskedNode`.
    period: H, number of steps between two outer steps of a fragment.
    axis_name: The axis, or axes, of the workers.
    num_fragments: F, a divisor of `period`.
    fragment_of: Function from the path of a leaf to its fragment, an integer
      from 0 to F − 1. By default fragments are runs of consecutive leaves of
      about equal total size.
    delay: Number of steps between Δ and its use, below H/F.
    blend: a, the fraction of its own parameters that a worker keeps, from 0 to
      1. With 1, workers never hear of each other.

  Raises:
    ValueError: At `init`, if `fragment_of` returns anything else; while
      tracing, if no parameters are passed.
  """
  workers.names_of(axis_name)
  _check_periods(period, num_fragments, delay)
  checks.within('blend', blend, 0, 1, one=True)
  checks.function('fragment_of', fragment_of)
  outer = checks.transformation('outer', outer)
  is_due = functools.partial(_is_due, period=period, total=num_fragments)

  def init_fn(params):
    owners = _fragments.assign(params, num_fragments, fragment_of)
    anchor = jax.tree.map(_wide_copy, params)
    # Copies, because an optimizer may keep the parameters in its state.
    states = tuple(
      outer.init(jax.tree.map(jnp.copy, _fragments.take(anchor, owners, f)))
      for f in range(num_fragments))
    pending = jax.tree.map(jnp.zeros_like, anchor) if delay else ()
    return MixByOuterStepState(
      jnp.zeros((), jnp.int32), anchor, pending, states,
      jnp.zeros((), jnp.int32))

  def update_fn(updates, state, params=None, **extra_args):
    _updates.check_given(params, updates)
    count = counting.increment(state.count)
    owners = _fragments.assign(params, num_fragments, fragment_of)
    join = lambda parts: _fragments.join(params, owners, parts)
    is_finite = _in_shards.all_finite(updates, axis_name)
    x = jax.tree.map(
      lambda x, u, anchor: jnp.where(is_finite, x + u, x).astype(anchor.dtype),
      params, updates, state.anchor)
    mixed, anchors, pending, states, left_out = zip(*(_advance(
      _cut(x, state, owners, f, delay), is_due(count, f),
      is_due(count + delay, f) if delay else None,
      outer, blend, axis_name, extra_args) for f in range(num_fragments)))
    moved = jax.tree.map(
      lambda new, x: (new - x).astype(x.dtype), join(mixed), params)
    without = sum(left_out, 1 - is_finite.astype(jnp.int32))
    return moved, MixByOuterStepState(
      count, join(anchors), join(pending) if delay else (), states,
      counting.increment(state.num_left_out, without))

  return stateful.transformation(
    init_fn, update_fn, MixByOuterStepState, like_params=('anchor', 'pending'))


class _Fragment(NamedTuple):
  """The part of x_i, θ, Δ and the outer state that belongs to a fragment.

  And how many workers its last mean has left out; 0 where none was due.
  """

  own: Any
  anchor: Any
  pending: Any
  outer: Any
  num_left_out: jax.Array | int = 0


def _cut(x, state, owners, fragment, delay):
  part = lambda tree: _fragments.take(tree, owners, fragment)
  pending = part(state.pending) if delay else ()
  return _Fragment(part(x), part(state.anchor), pending, state.outer[fragment])


def _is_due(count, fragment, *, period, total):
  """Return whether it is a fragment's turn: every `period` steps."""
  return count % period == (fragment + 1) * (period // total) % period


def _advance(
  fragment, is_due, is_sent, outer, blend, axis_name, extra_args
) -> _Fragment:
  """Send the pseudo-gradient, and take the outer step, if they are due.

  Steps are counted alike on all workers, so that all take the same branch:
  there are collectives inside. Without a delay, `is_sent` is None.
  """
  own, anchor, pending, outer_state, _ = fragment
  private = lambda tree: workers.as_private(tree, axis_name)

  def pseudo_gradient():
    return _pulls.mean_of_finite(
      jax.tree.map(jnp.subtract, anchor, own), axis_name)

  sent_without = None
  if is_sent is not None:
    pending, sent_without = lax.cond(
      is_sent, pseudo_gradient,
      lambda: private((fragment.pending, jnp.zeros((), jnp.int32))))

  def synchronize():
    delta, without = pseudo_gradient() if is_sent is None else (
      pending, jnp.zeros((), jnp.int32))
    step, new_state = outer.update(delta, outer_state, anchor, **extra_args)
    end = optax.apply_updates(anchor, step)
    mixed = jax.tree.map(
      lambda common, own: ((1 - blend) * common + blend * own).astype(
        own.dtype), end, own)
    return private((mixed, end, new_state, without))

  mixed, end, new_state, without = lax.cond(
    is_due, synchronize, lambda: private(
      (own, anchor, outer_state, jnp.zeros((), jnp.int32))))
  if sent_without is not None:
    without = sent_without
  return _Fragment(mixed, end, pending, new_state, without)


def _check_periods(period, num_fragments, delay):
  checks.count('period', period, 1)
  checks.count('num_fragments', num_fragments, 1)
  if period % num_fragments:
    raise ValueError(f'num_fragments={num_fragments!r}: must be a divisor of '
                     f'period={period!r}')
  checks.count('delay', delay, 0)
  if delay >= period // num_fragments:
    raise ValueError(f'delay={delay!r}: must be below period/num_fragments='
                     f'{period // num_fragments}')


def _wide_copy(x):
  """Copy an array in at least float32; the copy may be donated."""
  dtype = trees.wide_dtype(x.dtype)
  if isinstance(x, jax.ShapeDtypeStruct):  # A template has no values to copy.
    return jnp.zeros_like(x, dtype=dtype)
  return jnp.array(x, dtype=dtype, copy=True)
