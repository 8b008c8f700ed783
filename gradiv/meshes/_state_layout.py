"""How a transformation's state lies on a mesh, found by tracing.

Two questions have to be answered for each leaf of a state. *Is it cut up over
an axis, as the parameters are?* We ask ``init`` for the state of one shard of
the parameters, and see which sizes shrink. *Is it private to a worker?* We
trace ``update`` under ``check_vma=True``, where jax tracks over which axes a
value may vary, until no more leaves turn out to be private.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec as P

from gradiv import workers as workers_lib
from gradiv._common import compat
from gradiv.meshes._mesh_workers import (
  MeshWorkers,
  axes_of,
  is_spec,
  no_context_mesh,
)


def full_specs(specs: Any, params: Any, workers: MeshWorkers) -> Any:
  """Return one PartitionSpec for each leaf of the parameters.

  Raises:
    ValueError: If `specs` is no prefix tree of the parameters, or names an
      axis that the mesh does not have, or one that counts workers.
  """
  try:
    full = jax.tree.broadcast(specs, params, is_leaf=is_spec)
  except ValueError as error:
    raise ValueError(f'specs={specs}: must be a prefix tree of the parameters, '
                     f'with a PartitionSpec for each leaf: {error}') from error
  allowed = set(workers.mesh.axis_names) - set(workers.axes)
  for spec in jax.tree.leaves(full, is_leaf=is_spec):
    if not is_spec(spec) or axes_of(spec) - allowed:
      raise ValueError(
        f'specs={spec}: must be PartitionSpecs over axes of the mesh that do '
        f'not count workers, {sorted(allowed)}')
  return full


def state_specs(
  init: Callable, params: Any, specs: Any, workers: MeshWorkers
) -> tuple[Any, Any]:
  """Return the shapes of one worker's state, and how it is cut up.

  Args:
    init: Function from parameters to a state.
    params: Shapes of one worker's parameters.
    specs: One PartitionSpec for each leaf of them.
    workers: The workers on their mesh.

  Raises:
    ValueError: If the state of a shard is not a shard of the state.
  """
  with no_context_mesh():
    whole = jax.eval_shape(init, params)
    dims = jax.tree.map(lambda x: [()] * x.ndim, whole)
    used = frozenset().union(
      *map(axes_of, jax.tree.leaves(specs, is_leaf=is_spec)))
    for axis in (a for a in workers.mesh.axis_names if a in used):
      part = jax.eval_shape(init, _cut(params, specs, workers.mesh, axis))
      _mark(whole, part, dims, axis, workers.mesh.shape[axis])
  one_each = lambda x, names: P(*(name or None for name in names))
  return whole, jax.tree.map(one_each, whole, dims)


def find_private(
  transformation: Any, params: Any, whole: Any, specs: Any, state: Any,
  workers: MeshWorkers, private_params: bool, extra: dict[str, Any],
) -> Any:
  """Return which leaves of the state are private, as a tree of bools."""
  private = jax.tree.map(lambda _: False, whole)
  if private_params:
    private = jax.tree.map(
      workers_vary(workers), _varying(
        workers, lambda p: transformation.init(
          workers_lib.as_private(p, workers.names)), (params,), (specs,)))
  while True:
    _, after = update_types(
      transformation, params, whole, specs, state, private, workers,
      private_params, extra)
    now = jax.tree.map(
      lambda known, axes: known or workers_vary(workers)(axes), private, after)
    if now == private:
      return private
    private = now


def update_types(
  transformation: Any, params: Any, whole: Any, specs: Any, state: Any,
  private: Any, workers: MeshWorkers, private_params: bool,
  extra: dict[str, Any],
) -> tuple[Any, Any]:
  """Trace one update; return over which axes updates and state may vary.

  Args:
    transformation: The transformation of one worker.
    params: Shapes of one worker's parameters.
    whole: Shapes of one worker's state.
    specs: How the parameters are cut up.
    state: How the state is cut up.
    private: Which leaves of the state are private.
    workers: The workers on their mesh.
    private_params: Whether the parameters are private.
    extra: Extra arguments of ``update``, common to all workers.
  """
  def update(grads, state, params):
    own = lambda tree: workers_lib.as_private(tree, workers.names)
    state = jax.tree.map(
      lambda is_own, x: own(x) if is_own else x, private, state)
    return transformation.update(
      own(grads), state, own(params) if private_params else params, **extra)

  return _varying(workers, update, (params, whole, params),
                  (specs, state, specs))


def check_types(
  workers: MeshWorkers, what: str, types: Any, specs: Any, private: Any
) -> None:
  """Raise ValueError if a leaf varies over an axis that it is not laid over.

  It would be taken from one worker or shard, and silently be wrong.
  """
  def check(path, spec, is_own, axes):
    allowed = axes_of(spec) | set(workers.names if is_own else ())
    wrong = set(axes) - allowed
    where = what + jax.tree_util.keystr(path)
    if wrong & set(workers.names):
      raise ValueError(
        f'{where} differs between workers: put an aggregation over '
        f'{workers.names} into the chain, or pass private_params=True if each '
        'worker has parameters of its own')
    if wrong:
      raise ValueError(
        f'{where} differs between shards over {sorted(wrong)}, but is not cut '
        f'up over them: pass gradiv.Layout(sharded_over={tuple(wrong)}) to '
        'the transformation that computes it')

  jax.tree_util.tree_map_with_path(check, specs, private, types,
                                   is_leaf=is_spec)


def workers_vary(workers: MeshWorkers) -> Callable[[frozenset[str]], bool]:
  """Make a function of varying axes: do they count workers?"""
  return lambda axes: bool(axes & set(workers.names))


def _varying(workers, fn, args, specs):
  """Return, for each leaf of ``fn(*args)``, the axes over which it varies."""
  found = []

  def body(*args):
    found.append(jax.tree.map(compat.varying_axes, fn(*args)))
    return ()

  with no_context_mesh():
    jax.eval_shape(jax.shard_map(
      body, mesh=workers.as_axes, in_specs=specs, out_specs=()), *args)
  return found[-1]


def _cut(params, specs, mesh, axis):
  """Return the shapes of one shard, cut over one axis alone."""
  def shard(x, spec):
    keep = lambda names: axis if axis in jax.tree.leaves(names) else None
    sharding = NamedSharding(mesh, P(*map(keep, spec)))
    return jax.ShapeDtypeStruct(sharding.shard_shape(x.shape), x.dtype)

  return jax.tree.map(shard, params, specs)


def _mark(whole, part, dims, axis, size):
  """Note which dimensions of the state shrink if the parameters do."""
  def mark(path, big, small, names):
    for d, (a, b) in enumerate(zip(big.shape, small.shape, strict=True)):
      if a == b:
        continue
      if a != b * size:
        raise ValueError(
          f'state{jax.tree_util.keystr(path)} has shape {big.shape}, and '
          f'{small.shape} for a shard over {axis!r}: it cannot be laid out as '
          'the parameters are')
      names[d] = (*names[d], axis)

  jax.tree_util.tree_map_with_path(mark, whole, part, dims)
