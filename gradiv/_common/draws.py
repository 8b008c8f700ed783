"""Random transformations: one key, folded by what it is for.

Every random draw depends on the transformation, the step and the leaf, and
additionally on one of these:

  worker    if `axis_name` is given: each worker, or each example under an axis
            of examples, draws independently
  example   if ``update(..., example_index=i)`` is passed: example i draws the
            same numbers wherever and however often it occurs in the batch
  nothing   otherwise: all workers share the draw

Shards of one leaf draw independently as well. If jax can tell that updates
differ along an axis along which they would share a draw, that is an error.
"""

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv import workers
from gradiv._common import (
  checks,
  compat,
  counting,
  layout as layouts,
  stateful,
  trees,
)

# Tags keep these streams apart from those of workers and `jax.random.split`.
_EXAMPLE_TAG = 0x65786D70
_SHARD_TAG = 0x73686172
_UNSHARDED = layouts.Layout()


class DrawState(NamedTuple):
  """State of a transformation that draws.

  Attributes:
    count: Number of steps so far.
    rng_key: The key.
  """

  count: jax.Array
  rng_key: jax.Array


def copy_key(key: jax.Array, argument: str = 'key') -> jax.Array:
  """Copy a caller's key for a state, which may be donated.

  Raises:
    ValueError: Unless it is one `jax.random` key; the error names `argument`.
  """
  checks.key(argument, key)
  return jnp.array(key, copy=True)


def init(key: jax.Array) -> DrawState:
  """Return the state before the first step, with a copy of the key."""
  return DrawState(jnp.zeros((), jnp.int32), copy_key(key))


def transformation(
  purpose: str,
  draw: Callable[[jax.Array, optax.Updates, jax.Array], optax.Updates],
  key: jax.Array,
  axis_name: workers.AxisName | None,
  layout: layouts.Layout = _UNSHARDED,
) -> optax.GradientTransformationExtraArgs:
  """Create a transformation from ``draw(key, updates, count) -> updates``.

  Args:
    purpose: Name folded into the key, so that transformations with the same
      key draw differently.
    draw: Function that computes the updates of one step.
    key: Key; folded by the purpose, the step, and the worker or the example.
    axis_name: Axis, or axes, of the workers, each of which draws
      independently; None if all share the draw.
    layout: Which leaves are sharded; `draw` passes it to `map_leaves`.

  Raises:
    ValueError: While tracing, if a leaf is not floating, if `example_index` is
      not one whole number, or if jax can tell that updates differ along an
      axis along which the draw would be shared.
  """
  checks.key('key', key)
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
      check_not_shared(updates, compat.varying_axes(index), layout,
                       'example_index')
      step_key = jax.random.fold_in(
        jax.random.fold_in(step_key, _EXAMPLE_TAG), index)
    else:
      named = () if axis_name is None else workers.names_of(axis_name)
      check_not_shared(updates, named, layout, f'axis_name={axis_name!r}')
      if axis_name is not None:
        step_key = workers.worker_key(step_key, axis_name)
    return draw(step_key, updates, state.count), next_step(state)

  return stateful.transformation(lambda params: init(key), update_fn, DrawState)


def key_of(state: DrawState, purpose: str) -> jax.Array:
  """Fold the purpose and the step into the key."""
  key = jax.random.fold_in(state.rng_key, zlib.crc32(purpose.encode()))
  return jax.random.fold_in(key, state.count)


def next_step(state: DrawState) -> DrawState:
  """Count one more step."""
  return state._replace(count=counting.increment(state.count))


def shard_key(key: jax.Array, names: tuple[str, ...]) -> jax.Array:
  """Fold the index of this shard, if there are any, into a key."""
  if not names:
    return key
  return jax.random.fold_in(
    jax.random.fold_in(key, _SHARD_TAG), lax.axis_index(names))


def map_leaves(
  fn: Callable, key: jax.Array, tree: Any, *rest: Any,
  layout: layouts.Layout = _UNSHARDED,
) -> Any:
  """Apply ``fn(key, leaf, ...)`` to each leaf, with a different key each."""
  leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
  others = (treedef.flatten_up_to(other) for other in rest)
  key_of_leaf = lambda i, path: shard_key(
    jax.random.fold_in(key, i), layout.shard_names_of(path))
  return treedef.unflatten(
    fn(key_of_leaf(i, path), leaf, *each)
    for i, ((path, leaf), *each) in enumerate(zip(leaves, *others)))


def round_up(key: jax.Array, chance: jax.Array) -> jax.Array:
  """Draw True with a probability in [0, 1), rounded down to 2⁻³² multiples.

  `jax.random.bernoulli` only resolves multiples of 2⁻²³, which is too coarse
  for the coordinates of a long gradient.
  """
  bits = jax.random.bits(key, chance.shape, jnp.uint32)
  return bits < (chance * 2.0**32).astype(jnp.uint32)


def check_not_shared(
  updates: optax.Updates, apart: Any, layout: layouts.Layout, given: str
) -> None:
  """Raise ValueError if updates vary along more axes than the draws do.

  Args:
    updates: The updates.
    apart: Axes along which draws differ.
    layout: Which leaves are sharded; draws differ along their axes, too.
    given: The argument to name in the error.
  """
  for path, leaf in jax.tree_util.tree_leaves_with_path(updates):
    shared = compat.varying_axes(leaf) - {*apart, *layout.shard_names_of(path)}
    if shared:
      raise ValueError(
        f'{given}: update{jax.tree_util.keystr(path)} differs along '
        f'{sorted(shared)}, but its draw would not; name these axes in '
        'axis_name or, if they are shards, in sharded_over')
