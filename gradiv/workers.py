"""Workers as a named axis.

A *worker* is one position along a named axis of `jax.vmap`, `jax.pmap` or
`jax.shard_map`. All of gradiv is written against the name alone, so the same
program runs with 64 simulated workers on a laptop, with one worker a chip, and
with several workers on each chip (a tuple of axes).
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradiv._common import backends, compat

AxisName = str | tuple[str, ...]
BACKENDS = tuple(backends.BUILDERS)

# `jax.random.split(key)[i]` equals `jax.random.fold_in(key, i)`: without a tag
# of its own, worker 0 would draw what the holder of the split key draws.
_WORKER_TAG = 0x776F726B


def names_of(
  axis_name: AxisName, argument: str = 'axis_name'
) -> tuple[str, ...]:
  """List the names of an axis; raise ValueError where there is none."""
  names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
  if not names or not all(isinstance(n, str) and n for n in names):
    raise ValueError(
      f'{argument}={axis_name!r}: need a name, or a tuple of names'
    )
  if len(set(names)) < len(names):
    raise ValueError(f'{argument}={axis_name!r}: each name may stand once')
  return names


def num_workers(axis_name: AxisName) -> int:
  """Count the workers of the axis, as a Python int; needs the axis bound."""
  return math.prod(lax.axis_size(n) for n in names_of(axis_name))


def worker_key(key: jax.Array, axis_name: AxisName) -> jax.Array:
  """Fold the index of this worker into `key`: a stream for each worker.

  The streams depend on the worker's index along the whole axis, so they are
  the same, bit for bit, on every backend and on any number of devices.

  >>> keys = jax.vmap(lambda _: worker_key(jax.random.key(0), 'workers'),
  ...                 axis_name='workers')(jnp.arange(3))
  >>> len({int(bits) for bits in jax.vmap(jax.random.bits)(keys)})
  3
  """
  index = lax.axis_index(axis_name)
  return jax.random.fold_in(jax.random.fold_in(key, _WORKER_TAG), index)


def replicate(tree: Any, num_workers: int) -> Any:
  """Give each leaf a leading axis of `num_workers` equal rows.

  >>> replicate({'w': jnp.zeros(3)}, 2)['w'].shape
  (2, 3)
  """
  if num_workers < 1:
    raise ValueError(f'num_workers={num_workers}: must be at least 1')
  row = lambda x: jnp.broadcast_to(x, (num_workers, *jnp.shape(x)))
  return jax.tree.map(row, tree)


def as_private(tree: Any, axis_name: AxisName) -> Any:
  """Type a tree that is common to the workers as private to each.

  Inside a `jax.shard_map` of your own with ``check_vma=True``, the gradient
  with respect to common parameters is already the *sum* over the workers, the
  same on each: nothing is left to compare. Differentiate with respect to
  ``as_private(params, axis_name)`` instead. The values stay; where jax does
  not track what varies (vmap, pmap, ``check_vma=False``), so does the type.
  """
  for name in names_of(axis_name):
    if compat.is_tracked(name):
      cast = functools.partial(_ensure_varying, axis=name)
      tree = jax.tree.map(cast, tree)
  return tree


def check_private(tree: Any, axis_name: AxisName) -> None:
  """Raise ValueError, while tracing, on a leaf that cannot differ by worker."""
  for name in names_of(axis_name):
    if not compat.is_tracked(name):
      continue
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      if name not in compat.varying_axes(leaf):
        raise ValueError(
          f'gradient{jax.tree_util.keystr(path)} is already reduced over '
          f'axis {name!r}: under shard_map(check_vma=True), grad with respect '
          'to common parameters is the sum over the workers. Differentiate '
          f'with respect to gradiv.as_private(params, {axis_name!r}), or pass '
          'check_vma=False, or let gradiv.map_workers do the mapping.'
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
) -> Callable:
  """Run `fn` once for each worker, under a named axis, and compile it.

  `in_axes` and `out_axes` are prefix trees of 0 and None, as in `jax.vmap`:
  0 marks what is *private*, with a leading axis of one row a worker, None what
  is *common* to all workers.

  >>> gap = lambda x: x - jax.lax.pmean(x, 'workers')
  >>> map_workers(gap, 'workers')(jnp.array([1., 2., 6.])).tolist()
  [-2.0, -1.0, 3.0]

  Args:
    fn: The program of one worker; its collectives name `axis_name`.
    axis_name: One name, or a tuple of names, outermost first. With a tuple the
      devices lie along the first names and the workers of one device along the
      last; private arrays still have a single leading axis of all workers.
    in_axes: For the positional arguments of `fn`.
    out_axes: For its result. What is marked None is trusted by 'pmap' and
      'shard_map' and checked by 'vmap'.
    backend: 'vmap' (any number of workers on one device, and the strictest: a
      result declared common that differs by worker fails to trace), 'pmap' or
      'shard_map' (one worker a device, more with a tuple).
    devices: What to run on: a list, or an array with as many axes as there are
      names (all of them lie along devices) or one fewer (several workers on
      each). By default the most of `jax.devices()` that divide the workers.

  Raises:
    ValueError: At construction on a bad backend, axis name, axes or devices;
      at the call where the workers do not fit the devices.

  `jax.shard_map` is called with ``check_vma=False``: with its default, grad
  with respect to common parameters sums over the workers (see `as_private`).
  """
  names = names_of(axis_name)
  if backend not in BACKENDS:
    raise ValueError(f'backend={backend!r}: must be one of {BACKENDS}')
  in_axes, out_axes = (tuple(a) if isinstance(a, list) else a
                       for a in (in_axes, out_axes))
  for what, axes in (('in_axes', in_axes), ('out_axes', out_axes)):
    if set(jax.tree.leaves(axes)) - {0}:
      raise ValueError(f'{what}={axes!r}: leaves must be 0 or None')
  if devices is not None:
    devices = np.asarray(devices, dtype=object)
    if devices.ndim not in (len(names), max(len(names) - 1, 1)):
      raise ValueError(
        f'devices of shape {devices.shape}: must have as many axes as '
        f'axis_name={axis_name!r} has names, or one fewer'
      )

  @functools.cache
  def compiled(workers):
    grid = backends.device_grid(names, workers, backend, devices)
    build = backends.BUILDERS[backend]
    return build(fn, names, in_axes, out_axes, grid, workers)

  @functools.wraps(fn)
  def mapped(*args):
    return compiled(backends.count_workers(in_axes, args))(*args)

  return mapped
