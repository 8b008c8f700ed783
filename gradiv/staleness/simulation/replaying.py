"""Training along a trace: one scan, which knows no clock."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from gradiv._common import trees
from gradiv.staleness import history
from gradiv.staleness.simulation import events


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
              at(trace.version), at(trace.staleness), at(trace.bank),
              at(trace.row), at(trace.share, float), at(trace.steps, bool))

  def step(params, state, direction, **extra_args):
    updates, state = tx.update(direction, state, params, **extra_args)
    return optax.apply_updates(params, updates), state

  def arrive(carry, arrival):
    params, state, rows, table = carry
    worker, index, version, staleness, bank, row, share, steps = arrival
    # The latest version is written once more: what is written first and read
    # then, XLA need not copy.
    past = history.push(
      history.History(version + staleness - 1, rows), params)
    stale_params = history.read(past, staleness)
    grad = gradient(stale_params, worker, index)
    enter = lambda x, g: x.at[bank, row].set(
      ((1 - share) * x[bank, row] + share * g.astype(x.dtype)).astype(x.dtype))
    table = jax.tree.map(enter, table, grad)
    params, state = lax.cond(
      steps,
      lambda: step(params, state, jax.tree.map(
        lambda x, g: x[bank].mean(0).astype(g.dtype), table, grad),
        staleness=staleness, stale_params=stale_params),
      lambda: (params, state))
    return (params, state, past.rows, table), look(params, steps)

  def look(params, steps):
    if measure is None:
      return None
    empty = lambda: jax.tree.map(
      lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(measure, params))
    return lax.cond(steps, lambda: measure(params), empty)

  depth = 1 + int(trace.staleness[used].max())
  table = jax.tree.map(
    lambda x: jnp.zeros((*trace.table, *jnp.shape(x)),
                        trees.widen(x).dtype), params)
  rows = history.init(params, depth).rows
  (params, state, _, _), measured = lax.scan(
    arrive, (params, tx.init(params), rows, table), arrivals)
  places = np.flatnonzero(trace.steps[used])
  return Replay(params, state,
                jax.tree.map(lambda x: x[places], measured))
