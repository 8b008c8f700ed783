"""Transformations that check that a state is theirs, and of these parameters.

The state of a chain in another order, or of another model, would otherwise fail
deep inside of a rule, or broadcast.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax


def transformation(
  init_fn: Callable[..., Any],
  update_fn: Callable[..., tuple[Any, Any]],
  kind: type,
  like_params: tuple[str, ...] = (),
) -> optax.GradientTransformationExtraArgs:
  """Create a transformation whose ``update`` checks the state that it is given.

  Args:
    init_fn: Function from parameters to a state.
    update_fn: Function ``(updates, state, params=None, **extra_args)``.
    kind: Class of the state.
    like_params: Names of its fields that are trees like the parameters. Where
      a variant of the transformation does not need one, it is ().

  Returns:
    The transformation. Its ``update`` raises ValueError, while tracing, if the
    state is of another kind, or of parameters of other shapes.
  """
  def checked_update(updates, state, params=None, **extra_args):
    check_kind(state, kind)
    for name in like_params:
      check_like(name, getattr(state, name), updates)
    return update_fn(updates, state, params, **extra_args)

  return optax.GradientTransformationExtraArgs(init_fn, checked_update)


def check_kind(state: Any, kind: type) -> None:
  """Raise ValueError unless a state is of the class that `init` returns."""
  if not isinstance(state, kind):
    raise ValueError(
      f'state of type {type(state).__name__}: must be of type {kind.__name__}, '
      'as init makes it; a chain takes the states of its members in their '
      'order')


def check_like(name: str, tree: Any, updates: optax.Updates) -> None:
  """Raise ValueError unless a tree in the state is like the updates.

  Where nothing is kept, of the whole or of a leaf, there is ().
  """
  if _is_nothing(tree):
    return
  ask = 'call init with the parameters that are updated'
  expected, treedef = jax.tree_util.tree_flatten_with_path(updates)
  try:
    found = treedef.flatten_up_to(tree)
  except ValueError as error:
    raise ValueError(
      f'state.{name} with structure {jax.tree.structure(tree)}: must be '
      f'{treedef}, as the updates are; {ask}') from error
  for (path, update), x in zip(expected, found):
    shape = getattr(x, 'shape', None)
    if not _is_nothing(x) and shape != np.shape(update):
      raise ValueError(
        f'state.{name}{jax.tree_util.keystr(path)} of shape {shape}: must be '
        f'{np.shape(update)}, as the update is; {ask}')


def _is_nothing(tree):
  return isinstance(tree, tuple) and not tree
