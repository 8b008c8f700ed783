"""Train along a trace of arrivals, in one scan."""

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
  """Result of `replay`.

  Attributes:
    params: Parameters after the last step.
    state: State of the optimizer.
    measured: Results of `measure` after each step, [T, ...].
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
  """Train along a trace, with each gradient taken where its worker read.

  A pure function of arrays, which can be jitted, mapped and differentiated. It
  keeps as many versions of the parameters as the largest staleness plus one,
  and the server's table.

  >>> trace = events.simulate([1., 1.], 3, law='constant')
  >>> result = replay(trace, lambda x, worker, index: x, optax.sgd(0.5),
  ...                 jnp.float32(1.), measure=lambda x: x)
  >>> result.measured.tolist()  # staleness 0, 1, 1
  [0.5, 0.0, -0.25]

  Args:
    trace: Arrivals, from `simulate`.
    gradient: Function (params, worker, index) → gradient. The index is the
      position of the arrival in the trace, from which to choose the batch.
    optimizer: Optimizer of the server. Its update is passed ``staleness=`` and
      ``stale_params=`` of the gradient that completes the step, for
      `scale_by_staleness` and `compensate_delay`.
    params: Initial parameters, version 0.
    measure: Function of the parameters whose result is recorded after each
      step.
  """
  tx = optax.with_extra_args_support(optimizer)
  # A discarded gradient took time and has no other effect.
  used = np.flatnonzero(trace.weight)

  def step(params, state, direction, **extra_args):
    updates, state = tx.update(direction, state, params, **extra_args)
    return optax.apply_updates(params, updates), state

  def arrive(carry, arrival):
    params, state, rows, table = carry
    worker, index, version, staleness, bank, row, weight, steps = arrival
    # The latest version is written once more: XLA need not copy what is
    # written first and read later.
    past = history.push(
      history.History(version + staleness - 1, rows), params)
    stale_params = history.read(past, staleness)
    grad = gradient(stale_params, worker, index)
    table = _write(table, grad, bank, row, weight)
    params, state = lax.cond(
      steps,
      lambda: step(params, state, jax.tree.map(
        lambda x, g: x[bank].mean(0).astype(g.dtype), table, grad),
        staleness=staleness, stale_params=stale_params),
      lambda: (params, state))
    seen = None if measure is None else _measure_if(steps, measure, params)
    return (params, state, past.rows, table), seen

  depth = 1 + int(trace.staleness[used].max())
  table = jax.tree.map(
    lambda x: jnp.zeros(
      (*trace.table, *jnp.shape(x)), trees.wide_dtype(x.dtype)), params)
  rows = history.init(params, depth).rows
  (params, state, _, _), measured = lax.scan(
    arrive, (params, tx.init(params), rows, table), _columns(trace, used))
  places = np.flatnonzero(trace.steps[used])
  return Replay(params, state,
                jax.tree.map(lambda x: x[places], measured))


def _columns(trace, used):
  """Return the columns of the used arrivals, for a scan."""
  at = lambda column, dtype=jnp.int32: jnp.asarray(column[used], dtype)
  return (at(trace.worker), jnp.asarray(used, jnp.int32),
          at(trace.version), at(trace.staleness), at(trace.bank),
          at(trace.row), at(trace.weight, float), at(trace.steps, bool))


def _write(table, grad, bank, row, weight):
  """Average a gradient into its row of the server's table."""
  entry = lambda x, g: (
    (1 - weight) * x[bank, row] + weight * g.astype(x.dtype)).astype(x.dtype)
  return jax.tree.map(
    lambda x, g: x.at[bank, row].set(entry(x, g)), table, grad)


def _measure_if(steps, measure, params):
  """Measure the parameters after a step; zeros if there was none."""
  empty = lambda: jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(measure, params))
  return lax.cond(steps, lambda: measure(params), empty)
