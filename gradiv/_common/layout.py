"""Where workers' gradients lie, and which leaves are decided together."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gradiv import workers
from gradiv._common import trees

Grouping = Callable[[tuple], str]


@dataclasses.dataclass(frozen=True)
class Layout:
  """Where the workers' gradients lie, and which leaves are decided together.

  Pass one as ``layout=`` to an aggregation rule, to `worker_gram`, or to
  `worker_moments` and `track_moments`. The default is one whole gradient per
  worker, decided as one vector.

  >>> Layout(groups=by_layer).groups is by_layer
  True

  Attributes:
    mean_over: Axis, or axes, to average over first. A "worker" is then a group
      of them, such as the m devices of one host. The rules that see gradients
      average by a reduce-scatter, and each device sends its m-th part of the
      mean to the other groups.
    groups: Function from a leaf's path to the name of its group, such as
      `by_layer`. Each group is then decided by itself.
    sharded_over: Axis, or axes, over which each worker's own gradient is
      sharded by tensor parallelism or FSDP.
    is_sharded: Function from a leaf's path to whether that leaf is sharded; by
      default all are. A leaf that is not sharded must be the same along
      `sharded_over`, and counts once.

  Raises:
    ValueError: If an axis name is invalid or used twice, if `groups` or
      `is_sharded` is not callable, or if `is_sharded` is given without
      `sharded_over`.
  """

  mean_over: workers.AxisName | None = None
  groups: Grouping | None = None
  sharded_over: workers.AxisName | None = None
  is_sharded: Callable[[tuple], bool] | None = None

  def __post_init__(self) -> None:
    check_distinct(mean_over=self.mean_over, sharded_over=self.sharded_over)
    for name in ('groups', 'is_sharded'):
      value = getattr(self, name)
      if value is not None and not callable(value):
        raise ValueError(f'{name}={value!r}: must be a function of a path')
    if self.is_sharded is not None and self.sharded_over is None:
      raise ValueError('sharded_over=None: must be given with is_sharded')

  @property
  def mean_names(self) -> tuple[str, ...]:
    """Names of the axes to average over first."""
    return _names(self.mean_over, 'mean_over')

  @property
  def shard_names(self) -> tuple[str, ...]:
    """Names of the axes over which a worker's gradient is sharded."""
    return _names(self.sharded_over, 'sharded_over')

  @property
  def num_shards(self) -> int:
    """Number of shards of one worker's gradient; needs the axes bound."""
    names = self.shard_names
    return workers.num_workers(names) if names else 1

  def shards(self, path: tuple) -> bool:
    """Return whether the leaf at a path is sharded."""
    return self.sharded_over is not None and (
      self.is_sharded is None or self.is_sharded(path))

  def shard_names_of(self, path: tuple) -> tuple[str, ...]:
    """Names of the axes over which the leaf at a path is sharded."""
    return self.shard_names if self.shards(path) else ()

  def count_once(self, value: jax.Array, is_sharded: bool) -> jax.Array:
    """Scale a value so that its sum over the shards is that of the worker.

    Every shard holds the same copy of a leaf that is not sharded.
    """
    if is_sharded or self.sharded_over is None:
      return value
    return value / self.num_shards


def by_layer(path: tuple) -> str:
  """Name the layer of a leaf: its path without the last step.

  >>> tree = {'encoder': {'dense': {'kernel': 0, 'bias': 0}}}
  >>> [by_layer(p) for p, _ in jax.tree_util.tree_leaves_with_path(tree)]
  ['encoder/dense', 'encoder/dense']
  """
  return jax.tree_util.keystr(path[:-1] or path, simple=True, separator='/')


def resolve(
  layout: Layout | None,
  axis_name: workers.AxisName,
  *,
  unsupported: tuple[str, ...] = (),
) -> Layout:
  """Return a checked layout; None is the default one.

  Args:
    layout: The layout that the caller passed.
    axis_name: The axis of the workers; must differ from the layout's axes.
    unsupported: Fields that this function cannot honor, and must be unset.

  Raises:
    ValueError: If a field is unsupported, or an axis name is used twice.
  """
  layout = Layout() if layout is None else layout
  if not isinstance(layout, Layout):
    raise ValueError(f'layout={layout!r}: must be a gradiv.Layout')
  for name in unsupported:
    if getattr(layout, name) is not None:
      raise ValueError(f'layout.{name}={getattr(layout, name)!r}: '
                       'not supported here, must be None')
  workers.names_of(axis_name)
  check_distinct(axis_name=axis_name, mean_over=layout.mean_over,
                 sharded_over=layout.sharded_over)
  return layout


def sq_norm_of_shard(grads: Any, layout: Layout) -> jax.Array:
  """Compute this shard's part of the squared norm of a worker's gradient."""
  total = jnp.float32(0)
  for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
    total += layout.count_once(trees.sq_norm(leaf), layout.shards(path))
  return total


def is_finite(grads: Any, layout: Layout) -> jax.Array:
  """Return whether a worker's gradient is finite, in all of its shards."""
  total = sq_norm_of_shard(grads, layout)
  if layout.shard_names:
    total = lax.psum(
      workers.as_private(total, layout.shard_names), layout.shard_names)
  return trees.is_usable(total)


def check_distinct(**axes: workers.AxisName | None) -> None:
  """Raise ValueError if an axis is named twice."""
  names = [n for key, axis in axes.items() for n in _names(axis, key)]
  if len(set(names)) < len(names):
    raise ValueError(f'{axes}: axis names must be unique')


def _names(axis: Any, argument: str) -> tuple[str, ...]:
  return () if axis is None else workers.names_of(axis, argument)
