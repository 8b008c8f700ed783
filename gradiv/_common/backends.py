"""The three ways to run one program per worker, behind `map_workers`.

Each builder takes the program of one worker, the axis names, prefix trees of 0
(private: a leading axis of one row per worker) and None (common), and a grid
of devices. The grid has one axis per name, or one fewer if the last name
counts the workers of one device.
"""

import contextlib
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import (
  AbstractMesh,
  AxisType,
  Mesh,
  NamedSharding,
  PartitionSpec,
)


def device_grid(names, workers, backend, devices) -> np.ndarray:
  """Lay out the devices along the names, the last name possibly left out."""
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
  return devices


def _build_vmap(fn, names, in_axes, out_axes, grid, workers):
  outer = grid.shape[:len(names) - 1]
  sizes = (*outer, workers // math.prod(outer))
  body = _vmap_over(names, fn, in_axes, out_axes)
  enter = lambda x: x.reshape(*sizes, *x.shape[1:])
  leave = lambda x: x.reshape(workers, *x.shape[len(sizes):])

  @jax.jit
  def run(*args):
    return _private(leave, out_axes, body(*_private(enter, in_axes, args)))

  return run


def _build_shard_map(fn, names, in_axes, out_axes, grid, workers):
  del workers
  outer = names[:grid.ndim]
  mesh = Mesh(grid, outer, axis_types=(AxisType.Auto,) * grid.ndim)
  body = _vmap_over(names[grid.ndim:], fn, in_axes, out_axes)
  if grid.ndim == len(names):  # one worker per device: fn sees no row axis
    enter, leave = (lambda x: x.reshape(x.shape[1:])), (lambda x: x[None])
  else:
    enter = leave = lambda x: x

  def block(*args):
    return _private(leave, out_axes, body(*_private(enter, in_axes, args)))

  spec = lambda axis: PartitionSpec(outer) if axis == 0 else PartitionSpec()
  specs = lambda axes: jax.tree.map(spec, axes, is_leaf=_is_none)
  run = jax.jit(jax.shard_map(
    block, mesh=mesh, in_specs=specs(in_axes), out_specs=specs(out_axes),
    check_vma=False,
  ))

  def call(*args):
    with _no_context_mesh():
      return run(*_place(mesh, outer, in_axes, args))

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
    with _no_context_mesh():
      args = _place(mesh, names[:1], in_axes, _private(enter, in_axes, args))
      return _private(leave, out_axes, run(args))

  return call


BUILDERS = dict(vmap=_build_vmap, pmap=_build_pmap, shard_map=_build_shard_map)


def _no_context_mesh():
  """Leave the mesh of `jax.set_mesh`, which would have to equal our own.

  Inside a shard_map (a manual mesh) we stay, so that jax refuses the nesting.
  """
  context = jax.sharding.get_abstract_mesh()
  if context.empty or AxisType.Manual in context.axis_types:
    return contextlib.nullcontext()
  return jax.sharding.use_abstract_mesh(AbstractMesh((), ()))


def _is_none(x) -> bool:
  return x is None


def _vmap_over(names, fn, in_axes, out_axes):
  """Map `fn` over each name, the first outermost."""
  for name in reversed(names):
    fn = jax.vmap(fn, in_axes, out_axes, axis_name=name)
  return fn


def _each(fn, axes, tree):
  """Apply ``fn(axis, leaf)``, with `axes` a prefix tree of 0 and None."""
  under = lambda axis, sub: jax.tree.map(functools.partial(fn, axis), sub)
  return jax.tree.map(under, axes, tree, is_leaf=_is_none)


def _private(fn, axes, tree):
  return _each(lambda axis, x: fn(x) if axis == 0 else x, axes, tree)


def _place(mesh, outer, axes, args):
  """Lay out concrete arguments over the mesh; leave tracers where they are."""
  def place(axis, x):
    if isinstance(x, jax.core.Tracer):
      _check_not_sharded_otherwise(mesh, x)
      return x
    spec = PartitionSpec(outer) if axis == 0 else PartitionSpec()
    return jax.device_put(x, NamedSharding(mesh, spec))

  return _each(place, axes, args)


def _check_not_sharded_otherwise(mesh, x):
  """Raise ValueError if a tracer lies along Explicit axes of another mesh."""
  used = jax.tree.leaves(tuple(jax.typeof(x).sharding.spec))
  if set(used) - set(mesh.axis_names):
    raise ValueError(
      f'argument of type {jax.typeof(x)} is sharded over another mesh than '
      f'that of map_workers, {mesh.axis_names}: call the mapped function '
      'outside of jit, or reshard the argument with jax.sharding.reshard')


def count_workers(axes, args) -> int:
  """Return the number of workers: the leading size of private arguments."""
  sizes = set()
  _private(lambda x: sizes.add(jnp.shape(x)[:1]), axes, args)
  if len(sizes) != 1 or () in sizes:
    raise ValueError(
      'could not infer the number of workers: arguments with in_axes=0 have '
      f'leading sizes {[s[0] if s else None for s in sorted(sizes)]}; at '
      'least one is needed and all must agree')
  return sizes.pop()[0]
