"""Workers as a named axis.

A *worker* is one position along a named axis of `jax.vmap`, `jax.pmap` or
`jax.shard_map`. All of gradiv is written against the name of that axis, so the
same program runs with 64 simulated workers on a laptop, with one worker per
device, or with several workers on each device (a tuple of axes).
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradiv._common import backends, checks, compat, placing

AxisName = str | tuple[str, ...]
BACKENDS = tuple(backends.BUILDERS)

# `jax.random.split(key)[i]` equals `jax.random.fold_in(key, i)`: without a tag
# of its own, worker 0 would draw what the holder of the split key draws.
_WORKER_TAG = 0x776F726B


def names_of(
  axis_name: AxisName, argument: str = 'axis_name'
) -> tuple[str, ...]:
  """Return the axis names as a tuple; raise ValueError on an invalid name."""
  names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
  if not names or not all(isinstance(n, str) and n for n in names):
    raise ValueError(
      f'{argument}={axis_name!r}: must be a name or a tuple of names')
  if len(set(names)) < len(names):
    raise ValueError(f'{argument}={axis_name!r}: names must be unique')
  return names


def bound_names(axis_name: AxisName) -> tuple[str, ...]:
  """Return the axis names; raise ValueError if one is not mapped here."""
  names = names_of(axis_name)
  for name in names:
    try:
      lax.axis_size(name)
    except NameError as error:
      mapped = compat.mapped_axes()
      allowed = (
        f'must be one of the axes mapped here, {mapped}' if mapped else
        'no axis is mapped here; call this inside gradiv.map_workers, jax.vmap '
        'or jax.shard_map, or wrap the chain in gradiv.meshes.on_mesh')
      raise ValueError(f'axis_name={name!r}: {allowed}') from error
  return names


def num_workers(axis_name: AxisName) -> int:
  """Return the number of workers as a Python int; needs the axis bound."""
  return math.prod(map(lax.axis_size, bound_names(axis_name)))


def worker_key(key: jax.Array, axis_name: AxisName) -> jax.Array:
  """Fold the index of this worker into `key`, for independent random streams.

  The stream depends only on the worker's index along the whole axis, so it is
  the same, bit for bit, on every backend and on any number of devices.

  >>> keys = jax.vmap(lambda _: worker_key(jax.random.key(0), 'workers'),
  ...                 axis_name='workers')(jnp.arange(3))
  >>> len({int(bits) for bits in jax.vmap(jax.random.bits)(keys)})
  3
  """
  bound_names(axis_name)
  return key_of_worker(key, lax.axis_index(axis_name))


def key_of_worker(key: jax.Array, index: jax.Array | int) -> jax.Array:
  """Fold the index of a worker into `key`, as `worker_key` does.

  Use it where no axis is bound, as for the rows of an array.
  """
  return jax.random.fold_in(jax.random.fold_in(key, _WORKER_TAG), index)


def replicate(tree: Any, num_workers: int) -> Any:
  """Stack `num_workers` copies of each leaf along a new leading axis.

  Use it to start a state that each worker then updates on its own. Raises a
  ValueError if `num_workers` is not a whole number of at least 1.

  >>> replicate({'w': jnp.zeros(3)}, 2)['w'].shape
  (2, 3)
  """
  checks.count('num_workers', num_workers, 1)
  stack = lambda x: jnp.broadcast_to(x, (num_workers, *jnp.shape(x)))
  return jax.tree.map(stack, tree)


def as_private(tree: Any, axis_name: AxisName) -> Any:
  """Mark a tree that is common to the workers as private to each of them.

  Use it inside your own `jax.shard_map` with ``check_vma=True``. There, the
  gradient with respect to common parameters is already *summed* over the
  workers, so there is nothing left to compare. Differentiate with respect to
  ``as_private(params, axis_name)`` instead. Values never change; where jax
  does not track which values vary (vmap, pmap, ``check_vma=False``), this
  function returns the tree unchanged.

  Args:
    tree: Parameters, or any tree of arrays, the same on all workers.
    axis_name: Axis, or axes, of the workers.

  >>> mesh = jax.sharding.Mesh(jax.devices()[:2], ('workers',))
  >>> loss = lambda w, x: jnp.sum(w * x)
  >>> def own_gradient(w, x):
  ...   return jax.grad(loss)(as_private(w, 'workers'), x)[None]
  >>> P = jax.sharding.PartitionSpec
  >>> gradients = jax.shard_map(own_gradient, mesh=mesh, out_specs=P('workers'),
  ...                           in_specs=(P(), P('workers')))
  >>> gradients(1., jnp.arange(float(len(mesh.devices)))).tolist() == [
  ...     *range(len(mesh.devices))]
  True

  The gradient of each worker is its own x. Without `as_private`, each would be
  the sum of all.
  """
  for name in bound_names(axis_name):
    if compat.is_tracked(name):
      cast = functools.partial(_ensure_varying, axis=name)
      tree = jax.tree.map(cast, tree)
  return tree


def check_private(tree: Any, axis_name: AxisName) -> None:
  """Raise ValueError, while tracing, if a leaf is the same on all workers."""
  for name in bound_names(axis_name):
    if not compat.is_tracked(name):
      continue
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      if name not in compat.varying_axes(leaf):
        raise ValueError(
          f'gradient{jax.tree_util.keystr(path)} is already reduced over '
          f'axis {name!r}. If this transformation stands behind an aggregation '
          'in its chain, put it before. If not, the gradient is with respect '
          'to common parameters: under shard_map(check_vma=True), jax sums it '
          'over the workers. Then differentiate with respect to '
          f'gradiv.as_private(params, {axis_name!r}), or pass '
          'check_vma=False, or use gradiv.map_workers.'
        )


def _ensure_varying(x, axis):
  return x if axis in compat.varying_axes(x) else compat.to_varying(x, axis)


def map_workers(
  fn: Callable,
  axis_name: AxisName,
  *,
  in_axes: Any = 0,
  out_axes: Any = 0,
  backend: str = 'vmap',
  devices: Any = None,
  mesh: jax.sharding.Mesh | None = None,
) -> Callable:
  """Compile `fn`, the program of one worker, and run it once per worker.

  Arguments and results are either *private*, with a leading axis of one row
  per worker, or *common* to all workers. `in_axes` and `out_axes` say which,
  as prefix trees of 0 (private) and None (common), as in `jax.vmap`.

  >>> gap = lambda x: x - jax.lax.pmean(x, 'workers')
  >>> map_workers(gap, 'workers')(jnp.array([1., 2., 6.])).tolist()
  [-2.0, -1.0, 3.0]

  Each of the three workers sees one number, and the mean of all is 3.

  Args:
    fn: Program of one worker; its collectives name `axis_name`.
    axis_name: Name of the worker axis, or a tuple of names, outermost first.
      With a tuple, devices lie along the first names and the workers of one
      device along the last; private arrays still have a single leading axis.
    in_axes: Prefix tree of 0 and None for the arguments of `fn`, in positional
      order. Arguments may be passed by name too.
    out_axes: Prefix tree of 0 and None for the result. 'vmap' checks that a
      result marked None is common; 'pmap' and 'shard_map' trust you.
    backend: 'vmap' (the default: any number of workers on one device, and the
      strictest), 'shard_map' or 'pmap' (one worker per device, or several with
      a tuple of names).
    devices: Devices to run on: a list, or an array with one axis per name (one
      worker per device) or one axis fewer (several). By default as many of
      `jax.devices()` as divide the number of workers.
    mesh: In place of `devices`, for backend='shard_map': a mesh that has the
      axes of `axis_name`, all or all but the last. Workers are copied along
      its other axes. By default the mesh of `jax.set_mesh`, if it has them.

  Returns:
    The mapped function. It raises a ValueError if the workers do not fit the
    devices, and a TypeError if an argument cannot be passed by position.

  With several processes, use backend='shard_map'. Every process calls the
  mapped function, and its devices hold some of the workers. Results are arrays
  of all processes, and can be passed on as they are. Of what a process knows
  by itself, common arguments must be the same in each; private ones have the
  rows of all workers or, with one worker per device, those of the process
  alone.

  'pmap', and 'shard_map' inside a mesh that lacks `axis_name`, lay out a mesh
  of their own. `jax.shard_map` is called with ``check_vma=False``, because its
  default would sum gradients over the workers (see `as_private`).
  """
  names = names_of(axis_name)
  checks.choice('backend', backend, BACKENDS)
  in_axes, out_axes = _checked_axes(in_axes=in_axes, out_axes=out_axes)
  if devices is not None:
    devices = np.asarray(devices, dtype=object)
    if devices.ndim not in (len(names), max(len(names) - 1, 1)):
      raise ValueError(
        f'devices of shape {devices.shape}: must have one axis per name of '
        f'axis_name={axis_name!r}, or one fewer'
      )
  if mesh is not None and (devices is not None or backend != 'shard_map'):
    raise ValueError(f'mesh with axes {mesh.axis_names}: must be given with '
                     "backend='shard_map' and without devices")

  @functools.cache
  def compiled(workers, mesh):
    grid = (backends.device_grid(names, workers, backend, devices)
            if mesh is None else backends.check_mesh(mesh, names, workers))
    build = backends.BUILDERS[backend]
    return build(fn, names, in_axes, out_axes, grid, workers)

  @functools.wraps(fn)
  def mapped(*args, **kwargs):
    args = _by_position(fn, args, kwargs)
    used = mesh
    if backend == 'shard_map' and mesh is None and devices is None:
      used = backends.context_mesh(names)
    num_devices = None if backend == 'vmap' else (
      placing.devices_of_processes(names, devices if used is None else used))
    workers = placing.count_workers(in_axes, args, num_devices)
    return compiled(workers, used)(*args)

  return mapped


def _checked_axes(**axes):
  for argument, tree in axes.items():
    if set(jax.tree.leaves(tree)) - {0}:
      raise ValueError(f'{argument}={tree!r}: leaves must be 0 or None')
  return (tuple(a) if isinstance(a, list) else a for a in axes.values())


def _by_position(fn, args, kwargs):
  """Order the arguments of a call by position, as `in_axes` is ordered."""
  if not kwargs:
    return args
  name = getattr(fn, '__qualname__', repr(fn))
  try:
    bound = inspect.signature(fn).bind(*args, **kwargs)
  except (TypeError, ValueError) as error:  # ValueError: no signature
    raise TypeError(f'{name}(): {error}') from error
  if bound.kwargs:
    raise TypeError(
      f'{name}(): cannot pass {sorted(bound.kwargs)} by name, because '
      'map_workers maps arguments by position; pass every argument before '
      'them too, or close over keyword-only arguments')
  return bound.args
