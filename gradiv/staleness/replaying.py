"""Training along a trace: one scan, which knows no clock."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from gradiv.staleness import events, history


class Replay(NamedTuple):
  """How a training went.

  Attributes:
    params: After the last step.
    state: Of the optimizer.
    measured: What was measured after each step, [T, ...].
  """

  params: Any
  state: Any
  measured: Any


def replay(
  trace: events.Trace,
  gradient: Callable[[Any, jax.Array, jax.Array], Any],
  optimizer: optax.GradientTransformation,
  params: Any,
  *,
  measure: Callable[[Any], Any] | None = None,
) -> Replay:
  """Train along a trace: each gradient at the parameters its worker had read.

  A pure function of arrays: jit it, map it, differentiate it. It holds as many
  versions of the parameters as the largest staleness, and one, and the table
  of the server.

  >>> trace = events.simulate([1., 1.], 3, law='constant')
  >>> result = replay(trace, lambda x, worker, index: x, optax.sgd(0.5),
  ...                 jnp.float32(1.), measure=lambda x: x)
  >>> result.measured.tolist()  # staleness 0, 1, 1
  [0.5, 0.0, -0.25]

  Args:
    trace: See `simulate`.
    gradient: (params, worker, index) → gradient, with the place of the arrival
      in the trace, to choose the batch by.
    optimizer: Makes the server's steps. It is given ``staleness=`` and
      ``stale_params=`` of the gradient that completes the step, for
      `scale_by_staleness` and `compensate_delay`.
    params: Of version 0.
    measure: params → what is recorded after each step.
  """
  tx = optax.with_extra_args_support(optimizer)
  # Who was discarded took time, and nothing else.
  used = np.flatnonzero(trace.share)
  at = lambda column, dtype=jnp.int32: jnp.asarray(column[used], dtype)
  arrivals = (at(trace.worker), jnp.asarray(used, jnp.int32),
              at(trace.staleness), at(trace.bank), at(trace.row),
              at(trace.share, float), at(trace.steps, bool))

  def step(past, state, direction, staleness, stale_params):
    latest = history.read(past)
    updates, state = tx.update(direction, state, latest, staleness=staleness,
                               stale_params=stale_params)
    return history.push(past, optax.apply_updates(latest, updates)), state

  def arrive(carry, arrival):
    past, state, table = carry
    worker, index, staleness, bank, row, share, steps = arrival
    stale_params = history.read(past, staleness)
    grad = gradient(stale_params, worker, index)
    enter = lambda x, g: x.at[bank, row].set(
      ((1 - share) * x[bank, row] + share * g).astype(x.dtype))
    table = jax.tree.map(enter, table, grad)
    past, state = lax.cond(
      steps,
      lambda: step(past, state, jax.tree.map(
        lambda x: x[bank].mean(0), table), staleness, stale_params),
      lambda: (past, state))
    measured = measure(history.read(past)) if measure else None
    return (past, state, table), measured

  depth = 1 + int(trace.staleness[used].max())
  table = jax.tree.map(
    lambda x: jnp.zeros((*trace.table, *jnp.shape(x)), x.dtype), params)
  carry = (history.init(params, depth), tx.init(params), table)
  (past, state, _), measured = lax.scan(arrive, carry, arrivals)
  places = np.flatnonzero(trace.steps[used])
  return Replay(history.read(past), state,
                jax.tree.map(lambda x: x[places], measured))
