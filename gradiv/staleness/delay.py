"""Delay updates inside a program, by a queue in the optimizer's state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv import workers
from gradiv._common import counting, draws, stateful, trees
from gradiv.staleness import models


class DelayUpdatesState(NamedTuple):
  """State of `delay_updates`; private to each worker.

  Attributes:
    count: Number of steps so far.
    staleness: τ of the last update returned: one number, or a tuple with one
      per leaf in the order of the leaves. A constant staleness shows from
      `init` on; others start at 0.
    rng_key: The key of a drawn staleness; else ().
    buffer: Per leaf, the last updates, [largest τ + 1, ...], with that of step
      t in row t mod (τ + 1); () for a leaf that is never stale. One entry per
      leaf in the order of the tree: the rows are not shaped like parameters, so
      `optax.tree.map_params` must not see them as such.
  """

  count: jax.Array
  staleness: Any
  rng_key: jax.Array | tuple[()]
  buffer: Any


def delay_updates(
  staleness: models.Staleness,
  *,
  axis_name: workers.AxisName | None = None,
  key: jax.Array | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Return the update of τ steps ago: u_t = g_{t−τ}, and 0 while t < τ.

  In front of an optimizer this is delayed SGD, x_{t+1} = x_t − γ g(x_{t−τ}); in
  front of an aggregation, each worker has its own delay. It takes the memory of
  τ + 1 updates, for the largest τ, and the time to write one and read one. To
  keep past parameters instead of gradients, see `gradiv.staleness.history`; to
  scale the steps by the staleness, see `gradiv.staleness.with_staleness`.

  >>> tx = optax.chain(delay_updates(2), optax.sgd(1.))
  >>> state = tx.init(jnp.zeros(()))
  >>> for g in (1., 2., 3., 4.):
  ...   update, state = tx.update(jnp.float32(g), state)
  ...   print(float(update), end=' ')
  -0.0 -0.0 -1.0 -2.0

  If τ varies, an update may be returned twice, or never: step t uses the
  gradient at the parameters of τ_t steps ago. Updates are kept in the dtype of
  the parameters.

  Args:
    staleness: An int is τ in steps; 0 changes nothing and keeps nothing. A
      sequence holds τ of each worker along `axis_name`. A callable maps a
      leaf's path to its τ, such as `gradiv.staleness.pipeline_staleness`
      returns. With `Drawn`, τ is drawn in each step, separately for each worker
      if `axis_name` is given. With `Recorded`, it is read from a trace.
    axis_name: Axis, or axes, over which the workers lie.
    key: Key for a Drawn staleness; folded by the step and the worker.

  Raises:
    ValueError: At ``init``, if a leaf's τ is invalid; while tracing, if there
      is not one τ per worker.
  """
  model = models.check(staleness, axis_name, key)

  def init_fn(params):
    start = lambda path, x=None: jnp.int32(model.at_start(path))
    return DelayUpdatesState(
      jnp.zeros((), jnp.int32),
      trees.per_leaf(params, start) if model.is_by_leaf else start(()),
      () if key is None else draws.copy_key(key),
      trees.per_leaf(params, lambda path, x: _rows(x, model.most(path))))

  def update_fn(updates, state, params=None, **extra_args):
    del params, extra_args
    now = model.now(state) if model.now else None
    leaves, treedef = jax.tree.flatten(updates)
    buffer = state.buffer
    if leaves:
      stateful.check_like('buffer', [
        () if isinstance(x, tuple) else jax.ShapeDtypeStruct(
          x.shape[1:], x.dtype) for x in buffer], leaves)
      leaves, buffer = zip(*(
        _exchange(update, rows, now, state.count)
        for update, rows in zip(leaves, buffer, strict=True)))
    return treedef.unflatten(leaves), DelayUpdatesState(
      counting.increment(state.count),
      state.staleness if now is None else now, state.rng_key, buffer)

  return stateful.transformation(init_fn, update_fn, DelayUpdatesState)


def _rows(x, most):
  """Make room for `most` + 1 updates, laid out as the leaf is."""
  if not most:
    return ()
  return jnp.broadcast_to(jnp.zeros_like(x), (most + 1, *jnp.shape(x)))


def _exchange(update, rows, staleness, count):
  """Write an update in place of the oldest; return the one that is due."""
  if isinstance(rows, tuple):
    return update, rows
  depth = len(rows)
  if staleness is None:  # constant: the largest that the buffer has room for
    staleness = depth - 1
  # The read comes after the write, which takes one more row: XLA then writes
  # in place, where it would otherwise copy all rows in every step.
  rows = lax.dynamic_update_index_in_dim(
    rows, update.astype(rows.dtype), count % depth, 0)
  return rows[(count - staleness) % depth].astype(update.dtype), rows
