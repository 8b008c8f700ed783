"""Statistics of the leaves added up by group, in one stacked array."""

from typing import Any

import jax
import jax.numpy as jnp

from gradiv._common import groups as groups_lib
from gradiv._common.layout import Grouping
from gradiv.per_example._engine import squares, trace as trace_lib


def add_up(
  trace: trace_lib.Trace,
  params: Any,
  values: list[jax.Array],
  groups: Grouping | None,
  shape: tuple[int, ...] = (),
) -> jax.Array:
  """Add up the values of the leaves that have a gradient, by group.

  Args:
    trace: The traced loss.
    params: Its parameters, which name the groups. Leaves of integers have no
      gradient and count as zero, so that their groups are listed too.
    values: One array per leaf of `trace.leaves`.
    groups: Function from a leaf's path to its group, or None.
    shape: Shape of each value.

  Returns:
    [num_groups, *shape], or the sum over all leaves without `groups`.
  """
  if not jax.tree.leaves(params):
    return jnp.zeros(shape if groups is None else (0, *shape), jnp.float32)
  value_of: dict[Any, jax.Array] = {}
  for path, value in zip(trace.paths, values):  # two of a complex parameter
    value_of[path] = value_of[path] + value if path in value_of else value
  zero = jnp.zeros_like(values[0]) if values else jnp.zeros(shape, jnp.float32)
  tree = jax.tree_util.tree_map_with_path(
    lambda path, _: value_of.get(path, zero), params)
  return groups_lib.add_up(tree, groups)


def add_up_squares(
  trace: trace_lib.Trace,
  params: Any,
  parts: list[jax.Array],
  groups: Grouping | None,
) -> jax.Array:
  """Add up the squared norms of examples by group.

  Args:
    trace: The traced loss.
    params: Its parameters, which name the groups.
    parts: For each leaf of `trace.leaves`, its squares in parts: [n, ...].
    groups: Function from a leaf's path to its group, or None.

  Returns:
    [num_groups, n], or [n] without `groups`.
  """
  parts = [trace.over_shards(leaf, x)
           for leaf, x in zip(trace.leaves, parts, strict=True)]
  return _each_group(squares.add_up, trace, params, parts, groups, jnp.zeros(
    len(parts[0]) if parts else trace.num_examples, jnp.float32))


def sq_norms(
  trace: trace_lib.Trace,
  params: Any,
  arrays: list[jax.Array],
  groups: Grouping | None,
) -> jax.Array:
  """Compute the squared norms of one array per leaf: [num_groups], or []."""
  if trace.is_sharded:
    rows = [squares.of_arrays([x])[None] for x in arrays]
    return add_up_squares(trace, params, rows, groups)[..., 0]
  return _each_group(
    squares.of_arrays, trace, params, arrays, groups, jnp.float32(0))


def _each_group(add_up, trace, params, values, groups, zero):
  index = index_of(trace, params, groups)
  of_group = [add_up(mine) if mine else zero for mine in (
    [x for k, x in zip(index, values) if k == own]
    for own in ([None] if groups is None
                else range(*shape_of(params, groups))))]
  if groups is None:
    return of_group[0]
  return jnp.stack(of_group) if of_group else zero[None][:0]


def of_group_and_example(x: jax.Array, values: jax.Array) -> jax.Array:
  """Bring an array [n] into the shape of values [n] or [num_groups, n]."""
  return jnp.broadcast_to(
    x if x.ndim == values.ndim else x[None], values.shape)


def shape_of(params: Any, groups: Grouping | None) -> tuple[int, ...]:
  """Return (num_groups,), or () without `groups`."""
  if groups is None:
    return ()
  return (len(groups_lib.group_names(params, groups)),)


def index_of(
  trace: trace_lib.Trace, params: Any, groups: Grouping | None
) -> list[int | None]:
  """Return the group of each leaf of `trace.leaves`; None without groups."""
  if groups is None:
    return [None] * len(trace.leaves)
  names = groups_lib.group_names(params, groups)
  return [names.index(groups(path)) for path in trace.paths]
