"""Whose gradients meet, over which axes, and which of them take part."""

import dataclasses
import math
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv import workers
from gradiv._common import layout as layouts, trees

# What a caller may choose; `leaf_by_leaf` is for the rule to say.
OPTIONS = ('mean_over', 'groups', 'sharded_over', 'is_sharded')


def _every_leaf(path: tuple) -> bool:
  del path
  return True


@dataclasses.dataclass(frozen=True)
class Wire:
  """Whose gradients are compared, and how they are laid out.

  Attributes:
    axis_name: The axis, or axes, of the workers.
    mean_over: Axes to average over first, so that a "worker" is a group.
    groups: Names the group of a leaf by its path; by default one for all.
    sharded_over: Axes over which each worker's own gradient is sharded, by
      tensors or FSDP: inner products are added up over them.
    is_sharded: Whether the leaf at a path is; by default each is. One that is
      not is the same all along `sharded_over`, and counts once.
    leaf_by_leaf: Keep small leaves apart too.

  Raises:
    ValueError: On a bad axis name, or one that is named twice; on what is not
      a function; and on `is_sharded` without `sharded_over`.
  """

  axis_name: workers.AxisName
  mean_over: workers.AxisName | None = None
  groups: layouts.Grouping | None = None
  sharded_over: workers.AxisName | None = None
  is_sharded: Callable[[tuple], bool] = _every_leaf
  leaf_by_leaf: bool = False

  def __post_init__(self):
    given = {name: getattr(self, name)
             for name in ('axis_name', 'mean_over', 'sharded_over')}
    names = [n for name, axis in given.items()
             if axis is not None or name == 'axis_name'
             for n in workers.names_of(axis, name)]
    if len(set(names)) < len(names):
      raise ValueError(f'{given}: each name may stand once')
    for name in ('groups', 'is_sharded'):
      value = getattr(self, name)
      if value is not None and not callable(value):
        raise ValueError(f'{name}={value!r}: must be a function of a path')
    if self.is_sharded is not _every_leaf and self.sharded_over is None:
      raise ValueError('sharded_over=None: must be given with is_sharded')

  @classmethod
  def of(
    cls, axis_name: workers.AxisName, options: dict[str, Any],
    allowed: Collection[str] = OPTIONS, **fixed: Any,
  ) -> 'Wire':
    """Make a layout of what a caller passed on, or name what is unknown."""
    for name, value in options.items():
      if name not in allowed:
        raise ValueError(
          f'{name}={value!r}: not an option here, must be among {allowed}')
    return cls(axis_name, **options, **fixed)

  def names(self, *kinds: str) -> tuple[str, ...]:
    """List the names of some of the axes."""
    found = (getattr(self, kind) for kind in kinds)
    return tuple(n for axis in found if axis is not None
                 for n in workers.names_of(axis))

  def group_of(self, path: tuple) -> str:
    """Name the group of the leaf at a path."""
    return self.groups(path) if self.groups else ''

  def shards(self, path: tuple) -> bool:
    """Tell whether the leaf at a path is cut up over `sharded_over`."""
    return self.sharded_over is not None and bool(self.is_sharded(path))

  @property
  def num_shards(self) -> int:
    """Count the shards of each worker's gradient."""
    return math.prod(map(lax.axis_size, self.names('sharded_over')))


@dataclasses.dataclass(frozen=True)
class Admitted:
  """This worker's gradient, zero where it is not finite.

  Attributes:
    wire: The layout.
    grads: The gradient; with `Wire.mean_over`, the mean of its group.
    is_finite: Whether it is; of a group, whether any is.
    num_left_out: How many are not: 0 or 1, or up to the size of a group.
  """

  wire: Wire
  grads: optax.Updates
  is_finite: jax.Array
  num_left_out: jax.Array


def admit(grads: optax.Updates, wire: Wire) -> Admitted:
  """Leave this worker's gradient out where it is not finite.

  Raises:
    ValueError: On leaves that are not floating, and, while tracing, where the
      gradient has been reduced over the axis already.
  """
  workers.check_private(grads, wire.names('axis_name', 'mean_over'))
  trees.check_floating(grads)
  finite = is_finite(grads, wire)
  grads = trees.keep_if(finite, grads)
  if wire.mean_over is not None:
    names = wire.names('mean_over')
    mean, count = mean_of_finite(grads, finite, names)
    return Admitted(wire, mean, count > 0, workers.num_workers(names) - count)
  return Admitted(wire, grads, finite, 1 - finite.astype(jnp.float32))


def is_finite(grads: optax.Updates, wire: Wire) -> jax.Array:
  """Tell whether this worker's gradient, all shards of it, can take part."""
  total = own_sq_norm(grads, wire)
  if wire.sharded_over is not None:
    names = wire.names('sharded_over')
    total = lax.psum(workers.as_private(total, names), names)
  return trees.is_usable(total)


def own_sq_norm(grads: optax.Updates, wire: Wire) -> jax.Array:
  """Compute what, added up over the shards, is the squared norm."""
  total = jnp.float32(0)
  for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
    square = trees.sq_norm(leaf)
    total += square if wire.shards(path) else square / wire.num_shards
  return total


def mean_of_finite(
  grads: optax.Updates, finite: jax.Array, names: workers.AxisName
) -> tuple[optax.Updates, jax.Array]:
  """Average gradients that are zero unless they are finite; and count these.

  In at least float32, rounded once.
  """
  count = lax.psum(finite.astype(jnp.float32), names)

  def mean(g):
    total = lax.psum(trees.widen(g), names)
    return (total / jnp.maximum(count, 1)).astype(g.dtype)

  return jax.tree.map(mean, grads), count


def is_pair(admitted: Admitted) -> bool:
  """Tell whether two workers meet, and adding up loses no more than float32."""
  return workers.num_workers(admitted.wire.names('axis_name')) == 2 and all(
    g.dtype == jnp.float32 for g in jax.tree.leaves(admitted.grads))


def flags_of(met: Any) -> tuple[jax.Array, jax.Array]:
  """Make what, added up by `sum_over`, `read_flags` understands.

  Args:
    met: `Admitted`, or what was made of it with the same names.
  """
  names, shards = met.wire.names('axis_name'), met.wire.num_shards
  places = jnp.arange(workers.num_workers(names))
  own = met.is_finite & (places == lax.axis_index(names))
  return own.astype(jnp.float32) / shards, met.num_left_out / shards


def sum_over(layout: Wire, tree: Any) -> Any:
  """Add up over the workers, and over the shards of each: one psum."""
  names = layout.names('axis_name', 'sharded_over')
  return lax.psum(workers.as_private(tree, names), names)


def read_flags(flags: tuple[jax.Array, jax.Array]) -> tuple:
  """Tell which workers are present [n], and how many were left out."""
  present, num_left_out = flags
  return present > 0.5, jnp.round(num_left_out).astype(jnp.int32)
