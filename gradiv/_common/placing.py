"""Lay out the arguments of `map_workers` over the devices of all processes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def is_none(x) -> bool:
  """Tell whether a leaf of axes stands for a common argument."""
  return x is None


def _each(fn, axes, tree):
  """Apply ``fn(axis, leaf)``, with `axes` a prefix tree of 0 and None."""
  under = lambda axis, sub: jax.tree.map(functools.partial(fn, axis), sub)
  return jax.tree.map(under, axes, tree, is_leaf=is_none)


def map_private(fn, axes, tree):
  """Apply a function to the private leaves, where `axes` is 0."""
  return _each(lambda axis, x: fn(x) if axis == 0 else x, axes, tree)


def place(mesh, outer, axes, args, workers):
  """Lay out arguments over the mesh."""
  def put(axis, x):
    spec = PartitionSpec(outer) if axis == 0 else PartitionSpec()
    sharding = NamedSharding(mesh, spec)
    if isinstance(x, jax.core.Tracer):
      _check_not_sharded_otherwise(mesh, x)
      explicit = AxisType.Explicit in mesh.axis_types
      return jax.sharding.reshard(x, sharding) if explicit else x
    return _put(x, sharding, workers if axis == 0 else None)

  return _each(put, axes, args)


def _put(x, sharding, workers):
  """Lay out what a process knows, or an array that is laid out otherwise.

  Across processes without any traffic: jax would first compare what lies on
  each of them, and refuse random keys and NaN.

  Args:
    x: A number, an array of this process, or an array of all processes.
    sharding: Where it shall lie.
    workers: Number of rows of all processes; None if `x` is common to all
      workers, and therefore the same in each process.
  """
  if isinstance(x, jax.Array):
    if x.committed and x.sharding == sharding:
      return x
    if not x.is_fully_addressable:
      return jax.device_put(x, sharding)
  if jax.process_count() == 1:
    return jax.device_put(x, sharding)
  if jnp.isscalar(x):  # of weak type: jit lays it out
    return x
  if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
    return jax.random.wrap_key_data(
      _put(jax.random.key_data(x), sharding, workers),
      impl=jax.random.key_impl(x))
  x = np.asarray(x, jax.dtypes.canonicalize_dtype(x.dtype))
  if workers is not None and len(x) != workers:
    return jax.make_array_from_process_local_data(sharding, x)
  return jax.make_array_from_callback(x.shape, sharding, lambda place: x[place])


def _check_not_sharded_otherwise(mesh, x):
  """Raise ValueError if a tracer lies along Explicit axes of another mesh."""
  used = jax.tree.leaves(tuple(jax.typeof(x).sharding.spec))
  if set(used) - set(mesh.axis_names):
    raise ValueError(
      f'argument of type {jax.typeof(x)} is sharded over another mesh than '
      f'that of map_workers, {mesh.axis_names}: call the mapped function '
      'outside of jit, or reshard the argument with jax.sharding.reshard')


def devices_of_processes(names, devices) -> tuple[int, int] | None:
  """Count the devices in all processes and in this one, if each is a worker.

  Args:
    names: Names of the axes of the workers.
    devices: Array of devices, a mesh, or None for all of them.

  Returns:
    The numbers; or None if a device may hold several workers, or if there is
    one process only.
  """
  if jax.process_count() == 1:
    return None
  if isinstance(devices, Mesh):
    if not set(names) <= set(devices.axis_names):
      return None
    own = devices.local_mesh.shape
    size = lambda shape: math.prod(shape[name] for name in names)
    return size(devices.shape), size(own)
  if devices is None:
    if len(names) > 1:
      return None
    devices = np.asarray(jax.devices(), dtype=object)
  if devices.ndim < len(names):
    return None
  here = sum(d.process_index == jax.process_index() for d in devices.flat)
  return devices.size, here


def count_workers(axes, args, num_devices) -> int:
  """Return the number of workers: the leading size of private arguments.

  Args:
    axes: Prefix tree of 0 for private arguments, and None.
    args: The arguments.
    num_devices: How many devices there are, if each holds one worker, in all
      processes and in this one; else None. A process may then pass the rows of
      its own workers alone.
  """
  def size_of(x):
    size = jnp.shape(x)[:1]
    known = not isinstance(x, jax.Array) or (
      not isinstance(x, jax.core.Tracer) and x.is_fully_addressable)
    if num_devices and known and size == num_devices[1:]:
      return num_devices[:1]
    return size

  sizes = set()
  map_private(lambda x: sizes.add(size_of(x)), axes, args)
  if len(sizes) != 1 or () in sizes:
    raise ValueError(
      'could not infer the number of workers: arguments with in_axes=0 have '
      f'leading sizes {[s[0] if s else None for s in sorted(sizes)]}; at '
      'least one is needed and all must agree')
  return sizes.pop()[0]
