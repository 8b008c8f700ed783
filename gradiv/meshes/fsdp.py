"""What is known of each worker's gradient before FSDP adds them up.

Under FSDP each layer's parameters are gathered before use, and the backward
pass reduces its gradient by a reduce-scatter: after that no worker's gradient
is left, and nothing in the types says so. The functions here replace the
gather. In its backward pass, where the whole gradient of one layer exists,
they record a statistic as the cotangent of a *probe*, an array of zeros, so it
passes through `jax.lax.scan` and `jax.checkpoint` in O(layer) memory.

A rule over the whole gradient (all layers decide together) cannot act within
the backward pass. Two ways remain, which ``examples/fsdp_global_rule.py``
shows. *Two passes*: `gather_gram` in the first, weights w from it, then the
gradient of n·w_i times the loss of worker i in the second; exact, and costs a
second backward pass. *The weights of the last step*: scale the loss
by n·w_i of the step before; one pass, and the weights are one step old.

With tensor parallelism a gathered parameter may still be cut up over 'model':
name that axis in `probes`, and where a sum has to run over it too.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gradiv import workers as workers_lib
from gradiv._common import compat, layout as layouts, trees
from gradiv.diversity import moments as moments_lib


def _tap(backward: Callable) -> Callable:
  """Make a gather with a backward pass of one's own.

  Args:
    backward: Function of this worker's gradient of the whole parameter, the
      axis and `dim`, to the gradients in the shard and in the probe.
  """
  @functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
  def tapped(shard, probe, axis, dim=0):
    del probe
    return lax.all_gather(shard, axis, axis=dim, tiled=True)

  def back(axis, dim, probe, g):
    total, statistic = backward(g, axis, dim)
    return total, _as_varying(statistic, probe)

  tapped.defvjp(
    lambda shard, probe, axis, dim: (tapped(shard, probe, axis, dim), probe),
    back)
  return tapped


def _as_varying(statistic, probe):
  """Give a statistic the type of its probe, as a gradient must have it."""
  axes = compat.varying_axes(probe)
  missing = sorted(compat.varying_axes(statistic) - axes)
  if missing:
    raise ValueError(
      f'probe that varies over {sorted(axes)}: what it records also varies '
      f'over {missing}, over which the parameter is cut up too; name these '
      'axes in `probes`')
  return (workers_lib.as_private(statistic, tuple(sorted(axes)))
          if axes else statistic)


@_tap
def _gather(g, axis, dim):
  total = lax.psum_scatter(g, axis, scatter_dimension=dim, tiled=True)
  square = trees.sq_norm(g).astype(jnp.float32)
  return total / workers_lib.num_workers(axis), square


@_tap
def _gather_gram(g, axis, dim):
  rows = _rows(g, axis, dim)
  mean = jnp.mean(trees.widen(rows), 0).astype(g.dtype)
  return jnp.moveaxis(mean, 0, dim), _gram(rows)


def gather(
  shard: jax.Array, probe: jax.Array, axis: workers_lib.AxisName, dim: int = 0
) -> jax.Array:
  """Gather a parameter; record ‖g_i‖² of it in the backward pass.

  Use it in place of ``lax.all_gather(shard, axis, axis=dim, tiled=True)``. Its
  gradient in `shard` is the mean over the workers, from a reduce-scatter; its
  gradient in `probe` is the squared norm of this worker's whole gradient. No
  further traffic.

  Args:
    shard: This worker's part of the parameter.
    probe: Zero, float32, private to the worker: a leaf of `probes`.
    axis: Axis, or axes, of the workers.
    dim: Axis of the parameter that is cut up.
  """
  return _gather(shard, probe, axis, dim)


def gather_gram(
  shard: jax.Array, probe: jax.Array, axis: workers_lib.AxisName, dim: int = 0
) -> jax.Array:
  """Gather a parameter; record a part of the Gram matrix.

  As `gather`, with an all-to-all in place of the reduce-scatter, which moves
  as much. The gradient in `probe`, [n, n] float32, is this worker's part of
  G_ij = ⟨g_i, g_j⟩: add it up over the leaves, and over the workers by a psum.
  With tensor parallelism, that psum also runs over 'model' for the leaves that
  are cut up over it, and for these alone.
  """
  return _gather_gram(shard, probe, axis, dim)


def gather_by(
  rule: Callable[[jax.Array], jax.Array],
  *,
  sharded_over: workers_lib.AxisName | None = None,
) -> Callable:
  """Make a gather whose backward pass is a rule in place of the mean.

  Every parameter (every layer, in a scan) decides by itself; the gradient in
  the shard is Σ w_i g_i.

  Args:
    rule: One of `gradiv.weightings`, or a function from a Gram matrix [n, n]
      to weights [n].
    sharded_over: Axis, or axes, over which the gathered parameter is still cut
      up, as under tensor parallelism. All its parts then decide together. Jax
      knows such an axis under ``check_vma=True`` alone: there, leaving it out
      is an error.

  Returns:
    A function like `gather`. The gradient in its probe, [n] float32, is the
    weights.

  Raises:
    ValueError: While tracing, if the gradient varies over an axis that is not
      named.
  """
  others = () if sharded_over is None else workers_lib.names_of(
    sharded_over, 'sharded_over')

  @_tap
  def gather_ruled(g, axis, dim):
    names = (*workers_lib.names_of(axis), *others)
    unnamed = sorted(compat.varying_axes(g) - {*names})
    if unnamed:
      raise ValueError(f'sharded_over={sharded_over!r}: the gradient also '
                       f'varies over {unnamed}, which must be named')
    rows = _rows(g, axis, dim)
    gram = lax.psum(workers_lib.as_private(_gram(rows), names), names)
    weights = rule(gram)
    total = jnp.tensordot(
      weights, trees.widen(rows), 1, precision=lax.Precision.HIGHEST)
    return jnp.moveaxis(total.astype(g.dtype), 0, dim), weights

  return gather_ruled


def probes(
  params: Any, axis: workers_lib.AxisName, shape: tuple[int, ...] = ()
) -> Any:
  """Return zeros to differentiate with respect to, one array for each leaf.

  Args:
    params: The parameters. For layers stacked along a leading axis, call it
      inside of ``jax.vmap``, or give `shape` that axis too.
    axis: Axis, or axes, of the workers; with tensor parallelism, together with
      those over which gathered parameters are still cut up.
    shape: Shape of each: () for `gather`, (n, n) for `gather_gram`, (n,) for
      `gather_by`.
  """
  return workers_lib.as_private(
    jax.tree.map(lambda _: jnp.zeros(shape, jnp.float32), params), axis)


def moments_of(
  mean_shards: Any,
  squares: Any,
  axis: workers_lib.AxisName,
  *,
  batch_size: jax.typing.ArrayLike = 1,
  layout: layouts.Layout | None = None,
) -> moments_lib.Moments:
  """Compute the `Moments` of the workers from what `gather` leaves: one psum.

  Hand them to `gradiv.track_moments` as ``update(..., moments=moments)``. The
  deviation is (1/n) Σ ‖g_i‖² − ‖ḡ‖², so it is known to about 1e-7 ‖ḡ‖².

  Args:
    mean_shards: Gradients in the shards: this worker's part of the mean.
    squares: Gradients in the probes.
    axis: Axis, or axes, of the workers.
    batch_size: Number of examples behind each worker's gradient.
    layout: `gradiv.Layout` with `sharded_over` where each worker's gradient is
      cut up over a further axis, such as 'model', too.
  """
  layout = layouts.resolve(layout, axis, unsupported=('mean_over', 'groups'))
  names = (*workers_lib.names_of(axis), *layout.shard_names)
  n = workers_lib.num_workers(axis)

  def total(tree):
    return sum((layout.count_once(jnp.sum(x), layout.shards(path))
                for path, x in jax.tree_util.tree_leaves_with_path(tree)),
               jnp.float32(0))

  own = total(squares), total(jax.tree.map(trees.sq_norm, mean_shards))
  square, of_mean = lax.psum(workers_lib.as_private(own, names), names)
  return moments_lib.Moments(
    jnp.float32(n), jnp.asarray(batch_size, jnp.float32), of_mean,
    jnp.maximum(square / n - of_mean, 0))


def _rows(g, axis, dim):
  """Return this worker's slice of every worker's gradient: [n, ...]."""
  n = workers_lib.num_workers(axis)
  g = jnp.moveaxis(g, dim, 0)
  return lax.all_to_all(
    g.reshape(n, len(g) // n, *g.shape[1:]), axis, 0, 0, tiled=True)


def _gram(rows):
  flat = trees.widen(rows.reshape(len(rows), -1))
  return jnp.matmul(flat, flat.T, precision=lax.Precision.HIGHEST).astype(
    jnp.float32)
