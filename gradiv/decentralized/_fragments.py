"""Split a tree into fragments, each with the structure of the whole tree.

A fragment has `optax.MaskedNode` in place of the leaves of other fragments, as
in `optax.masked`. An optimizer of one fragment thus sees each leaf at its own
path, so masks and labels by path work.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import optax


def assign(
  params: Any, num_fragments: int, fragment_of: Callable[[tuple], int] | None
) -> list[int]:
  """Return the fragment of each leaf, in the order of the leaves.

  By default each fragment is a run of consecutive leaves, all of about equal
  size.
  """
  leaves = jax.tree_util.tree_leaves_with_path(params)
  if fragment_of is None:
    sizes = np.array([x.size for _, x in leaves], int)
    middles = 2 * sizes.cumsum() - sizes
    return np.minimum(middles * num_fragments // max(2 * sizes.sum(), 1),
                      num_fragments - 1).tolist()
  owners = [fragment_of(path) for path, _ in leaves]
  if not {*owners} <= {*range(num_fragments)}:
    raise ValueError(f'fragment_of returns {sorted({*owners}, key=str)}: must '
                     f'be from 0 to {num_fragments - 1}')
  return owners


def take(tree: Any, owners: Sequence[int], fragment: int) -> Any:
  """Return one fragment of a tree."""
  leaves, treedef = jax.tree.flatten(tree)
  return treedef.unflatten(
    x if owner == fragment else optax.MaskedNode()
    for x, owner in zip(leaves, owners, strict=True))


def join(like: Any, owners: Sequence[int], fragments: Sequence[Any]) -> Any:
  """Put fragments together into a tree with the structure of `like`."""
  leaves = [iter(jax.tree.leaves(fragment)) for fragment in fragments]
  return jax.tree.structure(like).unflatten(
    next(leaves[owner]) for owner in owners)
