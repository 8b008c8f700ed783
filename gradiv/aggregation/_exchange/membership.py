"""The workers of an exchange, and how each one's gradient is laid out."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jax import lax

from gradiv import workers
from gradiv._common import compat, groups, layout as layouts


@dataclasses.dataclass(frozen=True)
class Participants:
  """An axis of workers bound to the layout of their gradients.

  Attributes:
    names: Names of the axes of the workers.
    layout: Layout of each worker's gradient.
  """

  names: tuple[str, ...]
  layout: layouts.Layout

  @classmethod
  def of(
    cls,
    axis_name: workers.AxisName,
    layout: layouts.Layout | None = None,
    *,
    unsupported: tuple[str, ...] = (),
  ) -> 'Participants':
    """Check and bind the arguments of an aggregation.

    Args:
      axis_name: The axis, or axes, of the workers.
      layout: The caller's layout; None is the default one.
      unsupported: Fields of the layout that must be unset.

    Raises:
      ValueError: If an axis name is invalid or used twice, or if a field that
        is unsupported is set.
    """
    layout = layouts.resolve(layout, axis_name, unsupported=unsupported)
    return cls(workers.names_of(axis_name), layout)

  @property
  def count(self) -> int:
    """Number of workers; needs the axes bound."""
    return workers.num_workers(self.names)

  @property
  def index(self) -> jax.Array:
    """Index of this worker; needs the axes bound."""
    return lax.axis_index(self.names)

  @property
  def are_devices(self) -> bool:
    """Whether gradients are sent, and not the rows of one array."""
    return compat.is_over_devices((*self.names, *self.layout.mean_names))

  def sum(self, tree: Any) -> Any:
    """Sum over the workers, their members and their shards, in one psum."""
    names = (*self.names, *self.layout.mean_names, *self.layout.shard_names)
    return lax.psum(workers.as_private(tree, names), names)

  def group_of_leaves(self, tree: Any) -> np.ndarray:
    """Return the index of each leaf's group; zeros without groups."""
    if self.layout.groups is None:
      return np.zeros(len(jax.tree.leaves(tree)), int)
    return groups.members(tree, self.layout.groups)

  def num_groups(self, tree: Any) -> int:
    """Count the groups; a tree without leaves is one empty group.

    The state of an aggregation then has the same structure for every tree, as
    `optax.tree.map_params` needs.
    """
    if self.layout.groups is None:
      return 1
    return max(1, len(groups.group_names(tree, self.layout.groups)))
