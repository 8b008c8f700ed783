"""The two numbers of a sample of gradients from which the rest follows.

A sample is g_1 ... g_n, each the mean gradient of b examples. With ḡ their
mean, the `Moments` are ‖ḡ‖² and the centered (1/n) Σ ‖g_i − ḡ‖². The latter is
summed as it stands, because the difference of two large squares would cancel,
and in at least float32, because squared norms in bfloat16 are off in the third
digit. (For single examples, whose gradients are never written out, it is that
difference.)
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from gradiv import workers
from gradiv._common import (
  checks,
  compat,
  early_sums,
  layout as layouts,
  trees,
)
from gradiv.diversity import _agreeing, _leaf_norms, _metric


class Moments(NamedTuple):
  """Second moments of a sample of gradients.

  With groups of leaves, every field has a leading axis [groups] in the order
  of `gradiv.group_names`.

  Attributes:
    num_gradients: Number n of gradients in the sample.
    batch_size: Number b of examples behind each gradient; the mean if they
      differ.
    sq_norm_of_mean: ‖ḡ‖², with ḡ weighted by the examples behind each g_i.
    mean_sq_deviation: Σ b_i ‖g_i − ḡ‖² / Σ b_i.
  """

  num_gradients: jax.Array
  batch_size: jax.Array
  sq_norm_of_mean: jax.Array
  mean_sq_deviation: jax.Array


def worker_moments(
  grads: optax.Updates,
  axis_name: workers.AxisName,
  *,
  batch_size: jax.typing.ArrayLike = 1,
  reduction: str = 'mean',
  groups: layouts.Grouping | None = None,
  layout: layouts.Layout | None = None,
  params: optax.Params | None = None,
  metric: optax.Updates | None = None,
) -> Moments:
  """Compute the `Moments` of the workers' gradients.

  Call it inside the program of one worker, before the gradients are averaged.
  Beyond the all-reduce of the mean gradient, which the compiler shares with
  `aggregate_by_mean`, it communicates two scalars (per group). All values are
  NaN if the gradient of any worker is not finite.

  Where FSDP has reduce-scattered a gradient, each worker holds a *part of the
  mean*, and there is nothing left to compare. The type does not show it, and
  the numbers would be wrong: pass `params` to be sure.

  Args:
    grads: Gradient of this worker; a tree of floating-point leaves.
    axis_name: Axis, or axes, of the workers.
    batch_size: Number of examples behind this worker's gradient: a number, a
      scalar array that may differ between workers, or one entry per worker.
      If they differ, the mean is weighted and estimates stay unbiased.
    reduction: 'mean' if the loss averages over its `batch_size` examples, or
      'sum' if it adds them up.
    groups: Function from a leaf's path to the name of its group, such as
      `gradiv.by_layer`. Every field of the result then has a leading axis
      [groups].
    layout: `gradiv.Layout` of gradients that are sharded, or averaged over
      another axis first. `groups` may be given there instead.
    params: What the gradient was taken for. If it is not the same on all
      workers, as the parts that FSDP deals out are not, all values are NaN.
      Some elements of each leaf are compared, for two more scalars to
      communicate. Leave it out where workers hold parameters of their own.
    metric: Weights d of the norm ‖g‖² = Σ d_j |g_j|², the same on all workers:
      a tree like the gradient (a shard of it where the gradient is one), such
      as `adam_metric` returns. The Euclidean norm by default. The weights must
      not depend on these gradients.

  Returns:
    The `Moments`, the same on every worker and shard.

  Raises:
    ValueError: While tracing, if the gradient has already been reduced over
      the axis, so that nothing is left to compare, or if the metric has other
      shapes than the gradient.

  >>> grads = jnp.array([[3., 0.], [1., 0.]])
  >>> m = jax.vmap(lambda g: worker_moments(g, 'workers'), axis_name='workers',
  ...              out_axes=None)(grads)
  >>> float(m.sq_norm_of_mean)  # of the mean gradient (2, 0)
  4.0
  >>> float(m.mean_sq_deviation)  # each gradient is at distance 1 from it
  1.0
  """
  checks.positive('batch_size', batch_size)
  checks.choice('reduction', reduction, ('mean', 'sum'))
  layout = resolve_layout(layout, groups, axis_name)
  trees.check_floating(grads, or_complex=True)
  workers.check_private(grads, (*workers.names_of(axis_name),
                                *layout.mean_names))
  batch, differs = _own_batch_size(batch_size, axis_name)
  is_finite = layouts.is_finite(grads, layout)
  is_plain = reduction == 'mean' and not (differs or layout.mean_names)
  if reduction == 'sum':
    grads = jax.tree.map(lambda g: g / batch, trees.widen(grads))
  if layout.mean_names:
    grads, batch, is_finite = _mean_first(
      grads, batch, differs, is_finite, layout.mean_names)
  # By the operations of `aggregate_by_mean`, so that they are compiled once.
  if is_plain and not compat.is_over_devices(workers.names_of(axis_name)):
    mean_batch = batch
    mean, num_finite = early_sums.mean_of_finite(grads, layout, axis_name)
  else:
    mean, mean_batch = _mean(grads, batch, differs, is_finite, axis_name)
    num_finite = lax.psum(is_finite.astype(jnp.float32), axis_name)
  of_mean, deviation = _compare(
    grads, mean, batch / mean_batch if differs else None, layout,
    _metric.roots_of(metric, grads))
  n = workers.num_workers(axis_name)
  parts = (*layout.mean_names, *layout.shard_names)
  names = (*workers.names_of(axis_name), *parts)
  deviation = lax.psum(workers.as_private(deviation, names), names) / n
  if parts:
    of_mean = lax.psum(workers.as_private(of_mean, parts), parts)
  is_unknown = num_finite < n
  if params is not None:
    is_unknown |= _agreeing.differ(params, axis_name, layout)
  unknown = jnp.where(is_unknown, jnp.nan, 0)
  return Moments(*jnp.broadcast_arrays(
    jnp.float32(n), jnp.float32(mean_batch), of_mean + unknown,
    deviation + unknown))


def merge_moments(
  a: Moments, b: Moments, *, sq_distance: jax.typing.ArrayLike
) -> Moments:
  """Pool two samples exactly, as if their gradients had been one sample.

  With the fractions p and q = 1 − p of the examples and d² = ‖ḡ_a − ḡ_b‖²:
  ‖ḡ‖² = p‖ḡ_a‖² + q‖ḡ_b‖² − pq d², and deviation p v_a + q v_b + pq d².

  Args:
    a: Moments of one sample.
    b: Moments of the other.
    sq_distance: ‖ḡ_a − ḡ_b‖², which cannot be computed from the two `Moments`.

  >>> one, three = Moments(1., 1., 1., 0.), Moments(1., 1., 9., 0.)  # 1 and 3
  >>> [float(x) for x in merge_moments(one, three, sq_distance=4.)]
  [2.0, 1.0, 4.0, 1.0]

  Two gradients of one example each: their mean is 2, and both are 1 from it.
  """
  size_a, size_b = (m.num_gradients * m.batch_size for m in (a, b))
  n = a.num_gradients + b.num_gradients
  p, q = size_a / (size_a + size_b), size_b / (size_a + size_b)
  between = p * q * sq_distance
  pool = lambda x, y: p * x + q * y
  sq_norm_of_mean = pool(a.sq_norm_of_mean, b.sq_norm_of_mean) - between
  return Moments(
    num_gradients=n,
    batch_size=(size_a + size_b) / n,
    sq_norm_of_mean=jnp.maximum(sq_norm_of_mean, 0),
    mean_sq_deviation=pool(a.mean_sq_deviation, b.mean_sq_deviation) + between,
  )


def resolve_layout(
  layout: layouts.Layout | None,
  groups: layouts.Grouping | None,
  axis_name: workers.AxisName,
) -> layouts.Layout:
  """Return a checked layout that includes the groups given beside it."""
  layout = layouts.resolve(layout, axis_name)
  if groups is None:
    return layout
  if layout.groups is not None:
    raise ValueError(f'groups={groups!r}: layout.groups is given as well')
  return dataclasses.replace(layout, groups=groups)


def _own_batch_size(batch_size, axis_name):
  """Return this worker's batch size, and whether it may differ by worker."""
  if jnp.ndim(batch_size) == 0:
    # A number cannot differ between workers, and needs no collective.
    if not isinstance(batch_size, jax.Array):
      return batch_size, False
    return workers.as_private(batch_size, axis_name), True
  n = workers.num_workers(axis_name)
  if jnp.shape(batch_size) != (n,):
    raise ValueError(f'batch_size of shape {jnp.shape(batch_size)}: must be '
                     f'one number, or one for each of the {n} workers')
  return jnp.asarray(batch_size, jnp.float32)[lax.axis_index(axis_name)], True


def _counted_once(grads, layout):
  """Return the weight of each leaf in a sum over shards: [leaves]."""
  paths = jax.tree_util.tree_leaves_with_path(grads)
  return np.array([1 if layout.shards(path) else 1 / layout.num_shards
                   for path, _ in paths], np.float32)


def _mean_first(grads, batch, differs, is_finite, names):
  """Average over `mean_over`; the result stands for the examples of all.

  By a reduce-scatter: each member keeps a part of each leaf of the mean, for
  norms can be added up over parts. So it does not send the whole to others.
  What is not finite need not be left out, as the moments are unknown then.
  """
  size = workers.num_workers(names)
  total = batch * size
  if differs:
    batch = workers.as_private(batch, names)
    total = lax.psum(batch, names)

  def part_of_mean(g):
    g = g * (batch / total) if differs else g
    part = jnp.pad(g.ravel(), (0, -g.size % size))
    for name in names:
      part = lax.psum_scatter(part, name, tiled=True)
    return part if differs else part / size

  is_finite = lax.psum(is_finite.astype(jnp.int32), names) == size
  return jax.tree.map(part_of_mean, trees.widen(grads)), total, is_finite


def _mean(grads, batch, differs, is_finite, axis_name):
  """Average over the workers; return also their mean batch size.

  By the sum with which `aggregate_by_mean` begins: the two then share an
  all-reduce. The number of finite gradients is not waited for, as the moments
  are unknown unless all of them are.
  """
  n = workers.num_workers(axis_name)
  if not differs:
    total = early_sums.sum_at_once(grads, is_finite, axis_name)
    return jax.tree.map(lambda t: t / n, total), batch
  mean_batch = lax.psum(batch, axis_name) / n
  weight = batch / mean_batch
  mean = jax.tree.map(lambda g: lax.psum(g * weight, axis_name) / n,
                      trees.widen(grads))
  return mean, mean_batch


def _compare(grads, mean, weight, layout, roots):
  """Compute this shard's part of ‖ḡ‖² and of this worker's ‖g − ḡ‖²."""
  leaves, means = jax.tree.leaves(grads), jax.tree.leaves(mean)

  deviation = lambda g, m, *root: _metric.scaled(g.astype(m.dtype) - m, *root)
  of_mean = _leaf_norms.sq_norms(means, *roots, of=_metric.scaled)
  deviations = _leaf_norms.sq_norms(leaves, means, *roots, of=deviation)
  if weight is not None:
    deviations *= weight
  if layout.shard_names:
    once = _counted_once(grads, layout)
    of_mean, deviations = of_mean * once, deviations * once
  return tuple(_leaf_norms.add_up(x, grads, layout.groups)
               for x in (of_mean, deviations))
