"""Random transformations: one key, folded by what it is for.

A draw is of a transformation, a step, a leaf, and of one of these:

  worker    the place along `axis_name`: each worker, or each example under an
            axis of examples, draws afresh
  example   ``update(..., example_index=i)``: example i draws alike wherever
            and however often the step's batch holds it
  nothing   neither is given: the draw is common to all that the update is
"""

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradiv import axes, compat

# Apart from the streams of workers, and from those of `jax.random.split`.
_EXAMPLE_TAG = 0x65786D70


class DrawState(NamedTuple):
  """State of a transformation that draws.

  Attributes:
    count: Steps so far.
    rng_key: The key.
  """

  count: jax.Array
  rng_key: jax.Array


def init(key: jax.Array) -> DrawState:
  """Start at step 0."""
  return DrawState(jnp.zeros((), jnp.int32), key)


def transformation(
  purpose: str,
  draw: Callable[[jax.Array, optax.Updates, jax.Array], optax.Updates],
  key: jax.Array,
  axis_name: axes.AxisName | None,
) -> optax.GradientTransformationExtraArgs:
  """Make a transformation of ``draw(key, updates, count) -> updates``.

  Args:
    purpose: Tells it from others that are given the same key.
    draw: What it does in one step.
    key: Folded by the purpose, the step, and the worker or the example.
    axis_name: The workers, each with draws of its own.

  Raises:
    ValueError: On a bad axis name; and, while tracing, where jax knows that
      updates differ along an axis along which the draw would be shared.
  """
  if axis_name is not None:
    axes.names_of(axis_name)

  def update_fn(updates, state, params=None, *, example_index=None,
                **extra_args):
    del params, extra_args
    step_key = key_of(state, purpose)
    if example_index is not None:
      step_key = jax.random.fold_in(
        jax.random.fold_in(step_key, _EXAMPLE_TAG), example_index)
    else:
      _check_not_shared(updates, axis_name)
      if axis_name is not None:
        step_key = axes.worker_key(step_key, axis_name)
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


def map_leaves(fn: Callable, key: jax.Array, tree: Any, *rest: Any) -> Any:
  """Apply ``fn(key, leaf, ...)`` to each leaf, with a key of its own."""
  leaves, treedef = jax.tree.flatten(tree)
  others = (treedef.flatten_up_to(other) for other in rest)
  return treedef.unflatten(
    fn(jax.random.fold_in(key, i), *each)
    for i, each in enumerate(zip(leaves, *others)))


def round_up(key: jax.Array, chance: jax.Array) -> jax.Array:
  """Draw True with a chance from 0 to below 1, to within 2⁻³².

  `jax.random.bernoulli` knows multiples of 2⁻²³ alone, which is coarse for the
  chances of the coordinates of a long gradient.
  """
  bits = jax.random.bits(key, chance.shape, jnp.uint32)
  return bits.astype(chance.dtype) * 2.0**-32 < chance


def _check_not_shared(updates, axis_name):
  named = set() if axis_name is None else set(axes.names_of(axis_name))
  for path, leaf in jax.tree_util.tree_leaves_with_path(updates):
    shared = compat.varying_axes(leaf) - named
    if shared:
      raise ValueError(
        f'axis_name={axis_name!r}: update{jax.tree_util.keystr(path)} differs '
        f'along {sorted(shared)}, where all would draw alike; name these '
        'axes too')
