"""Stale gradients from within a program: a queue in the optimizer's state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv import workers
from gradiv.staleness import models


class DelayUpdatesState(NamedTuple):
  """State of `delay_updates`; each worker's own.

  Attributes:
    count: Steps so far.
    staleness: τ of what was handed on last: one number, or, by leaf, a tree
      of them. What does not change shows from `init` on; else it starts at 0.
    rng_key: The key, of what is drawn; else None.
    buffer: By leaf, what came in the last steps, [largest τ + 1, ...]: that
      of step t in row t mod (τ + 1). Of a leaf that is never stale, ().
  """

  count: jax.Array
  staleness: Any
  rng_key: jax.Array | None
  buffer: Any


def delay_updates(
  staleness: models.Staleness,
  *,
  axis_name: workers.AxisName | None = None,
  key: jax.Array | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Hand on the update of τ steps ago: u_t = g_{t−τ}, and 0 while t < τ.

  In front of an optimizer that is delayed SGD, x_{t+1} = x_t − γ g(x_{t−τ});
  in front of the wire, each worker's own. It costs the memory of the largest
  τ updates, and one, and the time to write one and read one; for parameters in
  their place, see `history`.

  >>> tx = optax.chain(delay_updates(2), optax.sgd(1.))
  >>> state = tx.init(jnp.zeros(()))
  >>> for g in (1., 2., 3., 4.):
  ...   update, state = tx.update(jnp.float32(g), state)
  ...   print(float(update), end=' ')
  -0.0 -0.0 -1.0 -2.0

  Where τ varies, an update may be handed on twice, or never: it is as if the
  gradient was taken at what x was τ_t steps ago, `g_{t−τ_t}`.

  Args:
    staleness: One of
      an int      τ; 0 changes nothing and remembers nothing;
      a sequence  τ of each worker along `axis_name`;
      a callable  path → τ of that leaf, such as `pipeline_staleness` makes;
      Drawn       from a distribution, each step, of each worker if
                  `axis_name` is given, and common to all else;
      Recorded    from a trace, each step.
    axis_name: The axis over which the workers lie.
    key: Of what is Drawn; folded by the step, and the worker.

  Updates are remembered in the dtype of the parameters.

  Raises:
    ValueError: On a bad argument; at `init` on the τ of a leaf; and, while
      tracing, where it is not of as many workers as there are.
  """
  model = models.check(staleness, axis_name, key)

  def init_fn(params):
    by_leaf = lambda fn: jax.tree_util.tree_map_with_path(fn, params)
    rows = lambda path, x: (jnp.zeros(
      (model.most(path) + 1, *jnp.shape(x)), x.dtype)
      if model.most(path) else ())
    start = lambda path, x=None: jnp.int32(model.at_start(path))
    return DelayUpdatesState(
      jnp.zeros((), jnp.int32),
      by_leaf(start) if model.is_by_leaf else start(()),
      None if key is None else jnp.array(key, copy=True), by_leaf(rows))

  def update_fn(updates, state, params=None, **extra_args):
    del params, extra_args
    now = model.now(state) if model.now else None
    leaves, treedef = jax.tree.flatten(updates)
    pairs = [_exchange(*leaf, now, state.count) for leaf in zip(
      leaves, treedef.flatten_up_to(state.buffer))]
    stale, buffer = (treedef.unflatten(pair[i] for pair in pairs)
                     for i in (0, 1))
    return stale, DelayUpdatesState(
      optax.safe_increment(state.count),
      state.staleness if now is None else now, state.rng_key, buffer)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _exchange(update, rows, staleness, count):
  """Remember an update in place of the oldest; return what is due."""
  if isinstance(rows, tuple):
    return update, rows
  depth = len(rows)
  if staleness is None:  # always the same: the most that there is room for
    staleness = depth - 1
  # Read after the write, from one row more: XLA then writes in place, and else
  # copies all rows in every step.
  rows = lax.dynamic_update_index_in_dim(
    rows, update.astype(rows.dtype), count % depth, 0)
  return rows[(count - staleness) % depth].astype(update.dtype), rows
