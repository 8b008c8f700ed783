"""Gradients with a leading axis of workers, under plain `jax.jit`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from gradiv import workers as workers_lib
from gradiv.meshes._mesh_workers import MeshWorkers


def per_worker_value_and_grad(
  loss: Callable,
  mesh: Mesh,
  axis: workers_lib.AxisName,
  *,
  has_aux: bool = False,
  private_params: bool = False,
  num_workers: int | None = None,
) -> Callable[..., tuple[Any, Any]]:
  """Create a function that computes each worker's loss and gradient.

  Use it in place of `jax.value_and_grad` in front of a transformation made by
  `on_mesh`. Worker i computes ∇loss(params, rows of its part of the batch);
  each gradient stays on the devices of its worker, and nothing is sent.

  Args:
    loss: Function ``loss(params, batch, *args)`` of one worker's part of the
      batch; returns a scalar, or (scalar, aux) with `has_aux`.
    mesh: The mesh.
    axis: Axis, or axes, of the workers, as in `on_mesh`.
    has_aux: Whether `loss` returns a pair (loss, aux).
    private_params: Whether parameters are [n, ...], one row for each worker.
    num_workers: Number of workers n, where several lie on each device.

  Returns:
    A function ``(params, batch, *args) -> (losses, grads)`` with a batch of
    leaves [B, ...], B a multiple of n; losses are [n] and gradients [n, ...].
    With `has_aux`, the first result is (losses, aux), and aux is [n, ...]. It
    raises ValueError while tracing if n does not divide the batch.

  >>> mesh = jax.make_mesh((jax.device_count(),), ('data',))
  >>> loss = lambda w, x: jnp.mean(w * x)
  >>> x = jnp.ones(2 * jax.device_count())
  >>> losses, grads = jax.jit(per_worker_value_and_grad(loss, mesh, 'data'))(
  ...   jnp.float32(3), x)
  >>> float(losses[0]), float(grads[0]), len(grads) == jax.device_count()
  (3.0, 1.0, True)
  """
  workers = MeshWorkers.of(mesh, axis, num_workers)
  one = jax.value_and_grad(loss, has_aux=has_aux)
  # Explicit axes are part of the types that vmap sees.
  names = None if workers.is_explicit else workers.axes

  def all_workers(params, batch, *args):
    batch = jax.tree.map(lambda x: _split(workers, x), batch)
    each = jax.vmap(
      one, (0 if private_params else None, 0, *[None] * len(args)),
      spmd_axis_name=names)
    return each(params, batch, *args)

  return all_workers


def _split(workers, x):
  """Cut a batch into one part for each worker: [B, ...] to [n, B/n, ...]."""
  n = workers.count
  if not jnp.ndim(x) or len(x) % n:
    raise ValueError(f'batch of shape {jnp.shape(x)}: {n} workers must divide '
                     'the first axis')
  shape = n, len(x) // n, *x.shape[1:]
  sharding = NamedSharding(workers.mesh, P(workers.axes))
  if workers.is_explicit:
    return lax.reshape(x, shape, out_sharding=sharding)
  return lax.with_sharding_constraint(jnp.reshape(x, shape), sharding)
