"""Gradients that are not added up over the devices yet: type `unreduced`.

In explicit sharding, the gradient with respect to parameters of type
``P(reduced={'data'})`` has type ``P(unreduced={'data'})``: every device holds
its own part, and `jax.reshard` adds the parts up. Those parts are the
gradients of workers. See jax's page "Autodiff and sharding".

With n devices along the axis, the gradient of worker i is n times its part, so
that the mean of the workers is what `jax.reshard` returns.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from gradiv import workers as workers_lib
from gradiv._common import layout as layouts, trees
from gradiv.aggregation import gram as gram_lib
from gradiv.diversity import moments as moments_lib

FIRST_VERSION = (0, 10)


def worker_rows(grads: Any) -> Any:
  """Return the gradient of each worker as a row: [n, ...], without traffic.

  Use it to hand unreduced gradients to a transformation made by `on_mesh`.

  Args:
    grads: Tree of arrays that are unreduced over the same axes.

  Raises:
    ValueError: If they are not, or if jax is too old for the type.
  """
  mesh, axes = _unreduced_axes(grads)
  rows = lambda own: jax.tree.map(lambda g: g[None], _checked(own, axes))
  return _island(rows, mesh, axes, grads, jax.tree.map(
    lambda g: P(axes, *_spec(g)), grads))


def moments(
  grads: Any,
  *,
  batch_size: jax.typing.ArrayLike = 1,
  groups: layouts.Grouping | None = None,
  layout: layouts.Layout | None = None,
) -> moments_lib.Moments:
  """Compute the `Moments` of the workers from unreduced gradients.

  Use it beside the reduction of the gradients: the compiler shares its
  all-reduce. Arguments and result are those of `gradiv.worker_moments`. All
  values are NaN if all parts but one are exactly zero: such a gradient has
  been reduced before, and no worker's gradient is left in it.

  Args:
    grads: Tree of arrays that are unreduced over the same axes.
    batch_size: Number of examples behind each worker's gradient.
    groups: Function from a leaf's path to the name of its group.
    layout: Layout of the gradients: `sharded_over` names the other axes along
      which they lie.
  """
  mesh, axes = _unreduced_axes(grads)
  return _island(lambda own: moments_lib.worker_moments(
    _checked(own, axes), axes, batch_size=batch_size, groups=groups,
    layout=layout), mesh, axes, grads, P())


def gram(grads: Any, *, layout: layouts.Layout | None = None) -> jax.Array:
  """Compute the Gram matrix of the workers from unreduced gradients.

  Arguments and result are those of `gradiv.worker_gram`; NaN where `moments`
  would be.

  Args:
    grads: Tree of arrays that are unreduced over the same axes.
    layout: Layout of the gradients.
  """
  mesh, axes = _unreduced_axes(grads)
  return _island(lambda own: gram_lib.worker_gram(
    _checked(own, axes), axes, layout=layout), mesh, axes, grads, P())


def reduce(grads: Any, rule: Callable[..., jax.Array], like: Any) -> Any:
  """Reduce gradients by a rule, in place of ``jax.reshard(grads, like)``.

  Use it for a rule without memory; for a whole chain, pass `worker_rows` to
  `on_mesh`. Each leaf travels in one all-to-all of D elements, n² numbers
  decide, and what the layout of `like` does not keep cut up over the workers
  is gathered again: parameters that are cut up over them get their slice of
  the update without any gather (ZeRO).

  Args:
    grads: Tree of arrays that are unreduced over the same axes.
    rule: One of `gradiv.weightings`, or a function from a Gram matrix [n, n]
      to weights [n].
    like: The parameters. The result lies as they do.

  Returns:
    Σ w_i g_i, with g_i the gradient of worker i. It is NaN if all parts but one
    are exactly zero, as in `moments`. Workers whose gradient is not finite are
    left out.

  Raises:
    ValueError: If the gradients are not unreduced, or if they are cut up over
      further axes, which a rule would have to know of.
  """
  mesh, axes = _unreduced_axes(grads)
  for g in jax.tree.leaves(grads):
    if jax.tree.leaves(tuple(_spec(g))):
      raise ValueError(
        f'grads of type {jax.typeof(g)}: must not be cut up over other axes; '
        'use worker_rows and on_mesh, with gradiv.Layout(sharded_over=...)')
  dims = jax.tree.map(lambda p: _dim_over(tuple(_spec(p)), axes), like)

  def exchange(own):
    own = _checked(own, axes)
    finite = layouts.is_finite(own, layouts.Layout())
    rows = jax.tree.map(lambda g, d: _send(g, d, axes),
                        trees.keep_if(finite, own), dims)
    present = lax.all_gather(finite, axes)
    matrix = lax.psum(sum(map(_gram, jax.tree.leaves(rows))), axes)
    matrix = jnp.where(present[:, None] & present[None], matrix, jnp.nan)
    weights = rule(matrix)
    # All gradients were made NaN: it is no gradient of single devices.
    weights = jnp.where(present, weights, jnp.where(
      jnp.any(present), 0., jnp.nan))
    return jax.tree.map(lambda r, g, d: _receive(r, weights, g, d, axes),
                        rows, own, dims)

  return _island(exchange, mesh, axes, grads, jax.tree.map(_spec, like))


def _unreduced_axes(grads):
  """Return the mesh and the axes over which all leaves are unreduced."""
  if jax.__version_info__[:2] < FIRST_VERSION:
    raise ValueError(
      f'grads: arrays of type unreduced need jax {FIRST_VERSION[0]}.'
      f'{FIRST_VERSION[1]} or newer, and this is jax {jax.__version__}; '
      'compute the gradients by per_worker_value_and_grad instead')
  found = {}
  for path, g in jax.tree_util.tree_leaves_with_path(grads):
    sharding = jax.typeof(g).sharding
    found[frozenset(sharding.spec.unreduced)] = sharding.mesh
    if not sharding.spec.unreduced:
      raise ValueError(
        f'grads{jax.tree_util.keystr(path)} of type {jax.typeof(g)}: must be '
        'unreduced; differentiate with respect to jax.reshard(params, '
        'P(reduced={axis}))')
  if len(found) != 1:
    raise ValueError(f'grads unreduced over {sorted(map(sorted, found))}: all '
                     'leaves must be over the same axes, and at least one '
                     'leaf is needed')
  (axes, mesh), = found.items()
  return mesh, tuple(a for a in mesh.axis_names if a in axes)


def _island(fn, mesh, axes, grads, out_specs):
  """Call a function of each device's own part, scaled to be its gradient."""
  in_specs = jax.tree.map(
    lambda g: P(*_spec(g), unreduced=set(axes)), grads)
  n = 1
  for axis in axes:
    n *= mesh.shape[axis]
  # Without check_vma, jax lets us see the parts.
  return jax.shard_map(
    lambda own: fn(jax.tree.map(lambda g: g * n, own)), mesh=mesh,
    in_specs=(in_specs,), out_specs=out_specs, check_vma=False)(grads)


def _checked(own, axes):
  """Make a gradient NaN if all devices but one hold exactly zero."""
  is_some = jnp.zeros((), bool)
  for g in jax.tree.leaves(own):
    is_some |= jnp.any(g != 0)
  count = lax.psum(is_some.astype(jnp.float32), axes)
  wrong = (count == 1) & (workers_lib.num_workers(axes) > 1)
  return jax.tree.map(
    lambda g: jnp.where(wrong, jnp.full_like(g, jnp.nan), g), own)


def _spec(x):
  """Return how an array lies, apart from being reduced or unreduced."""
  return P(*jax.typeof(x).sharding.spec.partitions)


def _dim_over(spec, axes):
  """Return the axis of an array that is cut up over all of `axes`, or -1."""
  for dim, names in enumerate(spec):
    if names == axes or (names,) == axes:
      return dim
  return -1


def _send(g, dim, axes):
  """Send every worker its slice; return the slices of all: [n, ...]."""
  n = workers_lib.num_workers(axes)
  if dim < 0:
    flat = jnp.pad(g.ravel(), (0, -g.size % n))
    return lax.all_to_all(flat.reshape(n, -1), axes, 0, 0, tiled=True)
  g = jnp.moveaxis(g, dim, 0)
  return lax.all_to_all(
    g.reshape(n, len(g) // n, *g.shape[1:]), axes, 0, 0, tiled=True)


def _gram(rows):
  flat = trees.widen(rows.reshape(len(rows), -1))
  return jnp.matmul(flat, flat.T, precision=lax.Precision.HIGHEST)


def _receive(rows, weights, g, dim, axes):
  """Add slices up, and bring the sum into the layout of the parameter."""
  total = jnp.tensordot(weights, trees.widen(rows), 1,
                        precision=lax.Precision.HIGHEST).astype(g.dtype)
  if dim < 0:
    whole = lax.all_gather(total, axes, tiled=True)
    return whole[:g.size].reshape(g.shape)
  return jnp.moveaxis(total, 0, dim)
