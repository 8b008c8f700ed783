"""Sums over groups of leaves, stacked along one axis in the order of the names.

One array per statistic instead of one per group: a state has a handful of
leaves however many layers there are, and a program is compiled once for all.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradiv._common.layout import Grouping


def group_names(tree: Any, groups: Grouping) -> tuple[str, ...]:
  """List the groups of a tree's leaves, in the order of stacked results.

  >>> from gradiv._common.layout import by_layer
  >>> group_names({'b': {'w': 0}, 'a': {'w': 0, 'bias': 0}}, by_layer)
  ('a', 'b')

  Args:
    tree: The parameters, or any tree with their structure.
    groups: Function from a leaf's path to the name of its group, such as
      `gradiv.by_layer`.
  """
  paths = jax.tree_util.tree_leaves_with_path(tree)
  return tuple(sorted({groups(path) for path, _ in paths}))


def members(tree: Any, groups: Grouping) -> np.ndarray:
  """Return, for each leaf in order, the index of its group: [leaves]."""
  place = {name: i for i, name in enumerate(group_names(tree, groups))}
  paths = jax.tree_util.tree_leaves_with_path(tree)
  return np.array([place[groups(path)] for path, _ in paths], int)


def add_up(values: Any, groups: Grouping | None) -> jax.Array:
  """Add the values at the leaves up by group.

  Args:
    values: Tree with one array per leaf of the gradient, all of one shape.
    groups: Function from a leaf's path to its group, or None.

  Returns:
    [num_groups, ...], or the sum over all leaves without `groups`.
  """
  leaves = jax.tree.leaves(values)
  if groups is None:
    return sum(leaves, jnp.float32(0))
  index = members(values, groups)
  if not leaves:
    return jnp.zeros(0, jnp.float32)
  # One sum per group in the order of the leaves: no scatter, and the same
  # bits as for each group by itself.
  totals = [sum((leaves[i] for i in np.flatnonzero(index == k)),
                jnp.float32(0)) for k in range(index.max() + 1)]
  return jnp.stack(totals)
