"""Random transformations: one key, folded by what it is for.

A draw is of a transformation, a step, a leaf, and of one of these:

  worker    the place along `axis_name`: each worker, or each example under an
            axis of examples, draws afresh
  example   ``update(..., example_index=i)``: example i draws alike wherever
            and however often the step's batch holds it
  nothing   neither is given: the draw is common to all that the update is

A leaf that is cut into shards draws apart in each of them besides. Where jax
knows that updates differ along an axis along which all would draw alike, that
is an error.
"""

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv import workers
from gradiv._common import compat, trees

# Apart from the streams of workers, and from those of `jax.random.split`.
_EXAMPLE_TAG = 0x65786D70
_SHARD_TAG = 0x73686172


class DrawState(NamedTuple):
  """State of a transformation that draws.

  Attributes:
    count: Steps so far.
    rng_key: The key.
  """

  count: jax.Array
  rng_key: jax.Array


class Shards(NamedTuple):
  """Axes over which some leaves of the updates are cut up.

  Attributes:
    sharded_over: Their names; None where there are none.
    is_sharded: Whether the leaf at a path is; None: each.
  """

  sharded_over: workers.AxisName | None = None
  is_sharded: Callable[[tuple], bool] | None = None

  def check(self) -> 'Shards':
    """Raise ValueError on what does not fit."""
    if self.sharded_over is not None:
      workers.names_of(self.sharded_over, 'sharded_over')
    elif self.is_sharded is not None:
      raise ValueError('sharded_over=None: must be given with is_sharded')
    return self

  def names(self, path: tuple) -> tuple[str, ...]:
    """List the axes over which the leaf at a path is cut up."""
    if self.sharded_over is None or not (
        self.is_sharded is None or self.is_sharded(path)):
      return ()
    return workers.names_of(self.sharded_over)


def init(key: jax.Array) -> DrawState:
  """Start at step 0, with a key of its own: the state may be donated."""
  return DrawState(jnp.zeros((), jnp.int32), jnp.array(key, copy=True))


def transformation(
  purpose: str,
  draw: Callable[[jax.Array, optax.Updates, jax.Array], optax.Updates],
  key: jax.Array,
  axis_name: workers.AxisName | None,
  shards: Shards = Shards(),
) -> optax.GradientTransformationExtraArgs:
  """Make a transformation of ``draw(key, updates, count) -> updates``.

  Args:
    purpose: Tells it from others that are given the same key.
    draw: What it does in one step.
    key: Folded by the purpose, the step, and the worker or the example.
    axis_name: The workers, each with draws of its own.
    shards: Of leaves; `draw` hands them to `map_leaves`.

  Raises:
    ValueError: On a bad axis name; and, while tracing, on leaves that are not
      floating, an index that is not one number, and where jax knows that
      updates differ along an axis along which the draw would be shared.
  """
  if axis_name is not None:
    workers.names_of(axis_name)

  def update_fn(updates, state, params=None, *, example_index=None,
                **extra_args):
    del params, extra_args
    trees.check_floating(updates, 'update')
    step_key = key_of(state, purpose)
    if example_index is not None:
      index = jnp.asarray(example_index)
      if index.shape or not jnp.issubdtype(index.dtype, jnp.integer):
        raise ValueError(f'example_index={example_index!r}: must be one whole '
                         'number; map over the examples of a batch')
      check_not_shared(updates, compat.varying_axes(index), shards,
                       'example_index')
      step_key = jax.random.fold_in(
        jax.random.fold_in(step_key, _EXAMPLE_TAG), index)
    else:
      named = () if axis_name is None else workers.names_of(axis_name)
      check_not_shared(updates, named, shards, f'axis_name={axis_name!r}')
      if axis_name is not None:
        step_key = workers.worker_key(step_key, axis_name)
    return draw(step_key, updates, state.count), next_step(state)

  return optax.GradientTransformationExtraArgs(
    lambda params: init(key), update_fn)


def key_of(state: DrawState, purpose: str) -> jax.Array:
  """Fold the purpose and the step into the key."""
  key = jax.random.fold_in(state.rng_key, zlib.crc32(purpose.encode()))
  return jax.random.fold_in(key, state.count)


def next_step(state: DrawState) -> DrawState:
  """Count one more step."""
  return state._replace(count=optax.safe_increment(state.count))


def shard_key(key: jax.Array, names: tuple[str, ...]) -> jax.Array:
  """Fold the place along the axes of shards, if any, into a key."""
  if not names:
    return key
  return jax.random.fold_in(
    jax.random.fold_in(key, _SHARD_TAG), lax.axis_index(names))


def map_leaves(
  fn: Callable, key: jax.Array, tree: Any, *rest: Any,
  shards: Shards = Shards(),
) -> Any:
  """Apply ``fn(key, leaf, ...)`` to each leaf, with a key of its own."""
  leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
  others = (treedef.flatten_up_to(other) for other in rest)
  return treedef.unflatten(
    fn(shard_key(jax.random.fold_in(key, i), shards.names(path)), leaf, *each)
    for i, ((path, leaf), *each) in enumerate(zip(leaves, *others)))


def round_up(key: jax.Array, chance: jax.Array) -> jax.Array:
  """Draw True with a chance from 0 to below 1, cut to a multiple of 2⁻³².

  `jax.random.bernoulli` knows multiples of 2⁻²³ alone, which is coarse for the
  chances of the coordinates of a long gradient.
  """
  bits = jax.random.bits(key, chance.shape, jnp.uint32)
  return bits < (chance * 2.0**32).astype(jnp.uint32)


def check_not_shared(
  updates: optax.Updates, apart: Any, shards: Shards, given: str
) -> None:
  """Raise ValueError where updates vary along more axes than draws do."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(updates):
    alike = compat.varying_axes(leaf) - {*apart, *shards.names(path)}
    if alike:
      raise ValueError(
        f'{given}: update{jax.tree_util.keystr(path)} differs along '
        f'{sorted(alike)}, where all would draw alike; name these axes in '
        'axis_name, or, of shards, in sharded_over')
