"""The leaves of a training state, on their way to a disk and back.

A state is flattened to named NumPy arrays. So orbax never sees the structure,
of which it would lose parts (named tuples, empty trees, NumPy's numbers), and
each leaf comes back as the kind of thing that the template has in its place.
"""

import contextlib
import logging
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.engine import processes


class Leaf(NamedTuple):
  """An array and what it takes to make the leaf of it again.

  An array that lies on several processes stays on the devices.
  """
  path: tuple[Any, ...]
  description: dict[str, Any]
  value: np.ndarray | jax.Array


def to_host(tree: Any) -> list[Leaf]:
  """Return the leaves as NumPy arrays; typed keys as the numbers in them."""
  # All transfers under way before the first is waited for.
  for x in jax.tree.leaves(tree):
    if isinstance(x, jax.Array) and not _is_key(x) and x.is_fully_addressable:
      x.copy_to_host_async()
  flat = []
  for path, x in jax.tree_util.tree_leaves_with_path(tree):
    description = _describe(path, x)
    if _is_key(x):
      description['impl'] = str(jax.random.key_impl(x))
      x = jax.random.key_data(x)
    flat.append(Leaf(path, description, x if _is_spread(x) else np.asarray(x)))
  return flat


def are_finite(flat: list[Leaf]) -> bool:
  """Tell whether the parameters are: all below 'params', else all leaves."""
  named = [leaf for leaf in flat if 'params' in map(_name, leaf.path)]
  return all(bool(np.isfinite(leaf.value).all()) for leaf in named or flat
             if jnp.issubdtype(leaf.value.dtype, jnp.inexact))


def differences(template: Any, table: list[dict[str, Any]]) -> list[str]:
  """Name the leaves in which a template is not what was stored."""
  stored = {row['path']: row for row in table}
  problems = []
  for path, x in jax.tree_util.tree_leaves_with_path(template):
    wanted = _describe(path, x)
    found = stored.pop(wanted['path'], None)
    shown = f'{wanted["path"]}: {wanted["dtype"]}{wanted["shape"]} is wanted'
    if found is None:
      problems.append(f'{shown}, nothing is stored')
    elif any(found[key] != wanted[key] for key in ('dtype', 'shape')):
      problems.append(f'{shown}, {found["dtype"]}{found["shape"]} is stored')
  problems += [f'{path}: {row["dtype"]}{row["shape"]} is stored, nothing is '
               'wanted' for path, row in stored.items()]
  return problems


def like(template: Any, arrays: dict[str, Any]) -> Any:
  """Build a tree of the template's structure and kinds from stored arrays."""

  def convert(path, x):
    value = arrays[_describe(path, x)['path']]
    if isinstance(x, np.ndarray) or _is_key(x):
      return value
    if isinstance(x, (np.generic, bool, int, float, complex)):
      return value[()] if isinstance(x, np.generic) else value.item()
    # A copy: an array of JAX may be donated, and its memory then reused.
    on_device = jnp.array(value)
    return on_device if on_device.dtype == value.dtype else value

  return jax.tree_util.tree_map_with_path(convert, template)


def write_arrays(path: pathlib.Path, flat: list[Leaf]) -> None:
  """Write the arrays of leaves with orbax; return when they are written.

  Called by all processes. Process 0 writes alone, unless others hold shards.
  """
  # Orbax refuses arrays without elements; the table describes them fully.
  arrays = {leaf.description['path']: leaf.value
            for leaf in flat if leaf.value.size}
  together = any(map(_is_spread, arrays.values()))
  if arrays and (together or processes.is_first()):
    with _orbax(together) as (ocp, checkpointer):
      checkpointer.save(path, args=ocp.args.PyTreeSave(arrays))


def read_arrays(path: pathlib.Path,
                table: list[dict[str, Any]]) -> dict[str, Any]:
  """Read what a table describes: NumPy arrays, and typed keys."""
  nothing = {row['path'] for row in table if 0 in row['shape']}
  wanted = [row['path'] for row in table if row['path'] not in nothing]
  arrays = {}
  if wanted:
    with _orbax() as (ocp, checkpointer):
      as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
      arrays = checkpointer.restore(path, args=ocp.args.PyTreeRestore(
          restore_args=dict.fromkeys(wanted, as_numpy)))
  for row in table:
    name = row['path']
    if 'impl' in row:
      key_size = jax.eval_shape(
          lambda: jax.random.key_data(jax.random.key(0, impl=row['impl'])))
      empty = np.zeros((*row['shape'], *key_size.shape), np.uint32)
      arrays[name] = jax.random.wrap_key_data(
          jnp.array(arrays.get(name, empty)), impl=row['impl'])
    elif name in nothing:
      arrays[name] = np.zeros(row['shape'], jnp.dtype(row['dtype']))
  return arrays


@contextlib.contextmanager
def _orbax(together=False):
  """Lend orbax and a checkpointer of this process, or of all, without a log."""
  import orbax.checkpoint as ocp  # Takes a third of a second: not before need.
  me = jax.process_index()
  # Alone, without barriers: the other processes wait elsewhere.
  hosts = ocp.options.MultiprocessingOptions() if together else (
    ocp.options.MultiprocessingOptions(
      primary_host=me, active_processes={me}, barrier_sync_key_prefix=f'p{me}'))
  # A failure is raised, and needs no second account of a hundred lines.
  logger = logging.getLogger('absl')
  level = logger.level
  logger.setLevel(logging.CRITICAL)
  try:
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=hosts)
    with ocp.Checkpointer(
        handler, multiprocessing_options=hosts) as checkpointer:
      yield ocp, checkpointer
  finally:
    logger.setLevel(level)


def _is_spread(x: Any) -> bool:
  """Tell whether no process has all of an array."""
  return isinstance(x, jax.Array) and not (
    x.is_fully_addressable or x.is_fully_replicated)


def _is_key(x: Any) -> bool:
  return hasattr(x, 'dtype') and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _name(entry: Any) -> Any:
  return getattr(entry, 'key', getattr(entry, 'name', None))


def _describe(path, x: Any) -> dict[str, Any]:
  """Return path, shape and dtype, as JSON holds them."""
  name = f'state{jax.tree_util.keystr(path)}'
  if not hasattr(x, 'dtype'):
    x = np.asarray(x)
  if x.dtype == object:
    raise TypeError(f'{name} is no array and no number')
  return {'path': name, 'shape': list(x.shape), 'dtype': str(x.dtype)}
