"""The three ways to run one program per worker, behind `map_workers`.

Each builder takes the program of one worker, the axis names, prefix trees of 0
(private: a leading axis of one row per worker) and None (common), and a grid
of devices. The grid has one axis per name, or one fewer if the last name
counts the workers of one device. For shard_map it is a mesh, which may have
more axes, along which the workers are copied.
"""

import contextlib
import math

import jax
import numpy as np
from jax.sharding import (
  AbstractMesh,
  AxisType,
  Mesh,
  PartitionSpec,
)

from gradiv._common import compat, placing


def device_grid(names, workers, backend, devices) -> np.ndarray | Mesh:
  """Lay out the devices along the names, the last name possibly left out.

  A mesh for shard_map, and else an array.
  """
  if backend == 'vmap' and len(names) == 1:
    return np.empty((), dtype=object)
  if devices is None:
    pool = jax.devices() if backend != 'vmap' else jax.devices()[:1]
    fits = (d for d in range(min(len(pool), workers), 0, -1)
            if workers % d == 0 and (len(names) > 1 or d == workers))
    devices = np.asarray(pool[:next(fits, len(pool))], dtype=object)
    devices = devices.reshape(-1, *(1,) * (len(names) - 2))
  one_each = devices.ndim == len(names)
  if one_each and workers != devices.size:
    raise ValueError(
      f'{workers} workers on {devices.size} devices: axis_name={names} puts '
      'one worker on each device; for several, add a last name for the '
      "workers of one device, as in ('devices', 'virtual')")
  if workers % devices.size:
    raise ValueError(f'{workers} workers on {devices.size} devices: the '
                     'number of devices must divide the number of workers')
  if backend == 'pmap' and devices.shape[0] < devices.size:
    raise ValueError(f'devices of shape {devices.shape}: pmap maps a single '
                     "axis of devices; use backend='shard_map'")
  if backend != 'vmap':
    _check_processes(backend, devices)
  if backend == 'shard_map':
    return Mesh(devices, names[:devices.ndim],
                axis_types=(AxisType.Auto,) * devices.ndim)
  return devices


def check_mesh(mesh, names, workers) -> Mesh:
  """Return a mesh that a user gave if the workers fit it."""
  outer = [name for name in names if name in mesh.axis_names]
  if tuple(outer) not in (names, names[:-1]) or not outer:
    raise ValueError(
      f'mesh with axes {mesh.axis_names}: must have the axes of '
      f'axis_name={names}, all or all but the last')
  size = math.prod(mesh.shape[name] for name in outer)
  if workers != size and (tuple(outer) == names or workers % size):
    raise ValueError(f'{workers} workers on {size} devices along the axes '
                     f'{tuple(outer)} of the mesh: do not fit')
  _check_processes('shard_map', mesh.devices)
  return mesh


def context_mesh(names) -> Mesh | None:
  """Return the mesh of `jax.set_mesh` if workers can lie along its axes."""
  context = jax.sharding.get_abstract_mesh()
  if context.empty or context.manual_axes:
    return None
  if not set(names[:max(1, len(names) - 1)]) <= set(context.axis_names):
    return None
  return compat.concrete_mesh()


def _check_processes(backend, devices):
  """Raise ValueError if a process would compute nothing, or cannot take part.

  Its results would be arrays of which it holds nothing.
  """
  if jax.process_count() == 1:
    return
  if backend == 'pmap':
    raise ValueError("backend='pmap': runs in a single process, and there are "
                     f"{jax.process_count()}; use backend='shard_map'")
  used = {device.process_index for device in devices.flat}
  missing = sorted(set(range(jax.process_count())) - used)
  if missing:
    raise ValueError(
      f'the workers lie on {devices.size} of {jax.device_count()} devices, '
      f'none of them of the processes {missing}: pass devices= or mesh= with '
      'devices of every process')


def _build_vmap(fn, names, in_axes, out_axes, grid, workers):
  outer = grid.shape[:len(names) - 1]
  sizes = (*outer, workers // math.prod(outer))
  body = _vmap_over(names, fn, in_axes, out_axes)
  enter = lambda x: x.reshape(*sizes, *x.shape[1:])
  leave = lambda x: x.reshape(workers, *x.shape[len(sizes):])

  @jax.jit
  def run(*args):
    args = placing.map_private(enter, in_axes, args)
    return placing.map_private(leave, out_axes, body(*args))

  return run


def _build_shard_map(fn, names, in_axes, out_axes, grid, workers):
  mesh = grid
  outer = tuple(name for name in names if name in mesh.axis_names)
  body = _vmap_over(names[len(outer):], fn, in_axes, out_axes)
  if outer == names:  # one worker per device: fn sees no row axis
    enter, leave = (lambda x: x.reshape(x.shape[1:])), (lambda x: x[None])
  else:
    enter = leave = lambda x: x

  def block(*args):
    args = placing.map_private(enter, in_axes, args)
    return placing.map_private(leave, out_axes, body(*args))

  spec = lambda axis: PartitionSpec(outer) if axis == 0 else PartitionSpec()
  specs = lambda axes: jax.tree.map(spec, axes, is_leaf=placing.is_none)
  run = jax.jit(jax.shard_map(
    block, mesh=mesh, in_specs=specs(in_axes), out_specs=specs(out_axes),
    check_vma=False,
  ))

  def call(*args):
    with _no_context_mesh(mesh):
      return run(*placing.place(mesh, outer, in_axes, args, workers))

  return call


def _build_pmap(fn, names, in_axes, out_axes, grid, workers):
  mesh = Mesh(grid.reshape(-1), names[:1], axis_types=(AxisType.Auto,))
  body = _vmap_over(names[1:], fn, in_axes, out_axes)
  # As one argument: with several, jax 0.10 takes a flat in_axes leaf by leaf
  # when there happen to be as many leaves as arguments.
  run = jax.pmap(lambda args: body(*args), names[0], in_axes=(in_axes,),
                 out_axes=out_axes, devices=list(grid.flat))
  sizes = grid.shape
  if grid.ndim < len(names):
    sizes = (*sizes, workers // grid.size)
  enter = lambda x: x.reshape(*sizes, *x.shape[1:])
  leave = lambda x: x.reshape(workers, *x.shape[len(sizes):])

  def call(*args):
    with _no_context_mesh(mesh):
      args = placing.map_private(enter, in_axes, args)
      args = placing.place(mesh, names[:1], in_axes, args, workers)
      return placing.map_private(leave, out_axes, run(args))

  return call


BUILDERS = dict(vmap=_build_vmap, pmap=_build_pmap, shard_map=_build_shard_map)


def _no_context_mesh(own):
  """Leave the mesh of `jax.set_mesh` unless it is our own.

  Inside a shard_map (a manual mesh) we stay, so that jax refuses the nesting.
  """
  context = jax.sharding.get_abstract_mesh()
  if (context.empty or AxisType.Manual in context.axis_types
      or context == own.abstract_mesh):
    return contextlib.nullcontext()
  return jax.sharding.use_abstract_mesh(AbstractMesh((), ()))


def _vmap_over(names, fn, in_axes, out_axes):
  """Map `fn` over each name, the first outermost."""
  for name in reversed(names):
    fn = jax.vmap(fn, in_axes, out_axes, axis_name=name)
  return fn
