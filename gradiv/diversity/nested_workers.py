"""Workers in two levels, such as devices of hosts or rollouts of prompts."""

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv import workers
from gradiv._common import checks, trees
from gradiv.diversity import _leaf_norms
from gradiv.diversity.nested import NestedMoments


def worker_nested_moments(
  grads: optax.Updates,
  cluster_axis: workers.AxisName,
  member_axis: workers.AxisName,
  *,
  batch_size: jax.typing.ArrayLike = 1,
) -> NestedMoments:
  """Compute the `NestedMoments` of workers that lie along two axes.

  Use it to tell whether hosts, domains or prompts differ more than the workers
  within them do: give the axis of the clusters and that of their members. It
  communicates the gradient twice, within clusters and between them, and some
  scalars. No estimate is finite if the gradient of any worker is not.

  Args:
    grads: Gradient of this worker, a mean over its examples; a tree of
      floating-point leaves.
    cluster_axis: Axis, or axes, of the clusters.
    member_axis: Axis, or axes, of the members of a cluster.
    batch_size: Number w_ij of examples (or tokens) behind this worker's
      gradient: a number, or a scalar array that may differ between workers.

  Returns:
    The `NestedMoments` of all workers, the same on each of them.

  Raises:
    ValueError: While tracing, if the gradient has been reduced over one of the
      axes, or at once, if the batch size is not positive.

  >>> import gradiv
  >>> g = jnp.array([[[1.], [3.]], [[5.], [7.]]])  # two hosts of two devices
  >>> fn = lambda g: worker_nested_moments(g, 'hosts', 'devices')
  >>> for axis in ('devices', 'hosts'):
  ...   fn = jax.vmap(fn, axis_name=axis, out_axes=None)
  >>> [float(x) for x in gradiv.nested_estimate(fn(g))]
  [12.0, 7.0, 2.0]
  """
  checks.positive('batch_size', batch_size)
  if jnp.ndim(batch_size):
    raise ValueError(f'batch_size of shape {jnp.shape(batch_size)}: must be '
                     'one number')
  outer, inner = map(workers.names_of, (cluster_axis, member_axis))
  trees.check_floating(grads)
  workers.check_private(grads, (*outer, *inner))
  own = workers.as_private(jnp.asarray(batch_size, jnp.float32),
                           (*outer, *inner))
  total_of = lambda x, names: lax.psum(workers.as_private(x, names), names)
  weight = total_of(own, inner)
  average = lambda tree, share, names: jax.tree.map(
    lambda g: total_of(g * share.astype(g.dtype), names), tree)
  grads = trees.widen(grads)
  mean = average(grads, own / weight, inner)
  total = total_of(weight, outer)
  whole = average(mean, weight / total, outer)
  within = total_of(own * _sq_distance(grads, mean), inner)
  gap = jax.tree.map(lambda x, y: x - y, mean, whole)
  of_mean = trees.sq_norm(whole)
  row = jnp.stack([
    jnp.float32(workers.num_workers(inner)) + 0 * weight, weight, within,
    _sq_distance(mean, whole), trees.dot(gap, whole)])
  # As a sum, because its type then says that it is common to all workers.
  table = jnp.zeros((workers.num_workers(outer), len(row)), row.dtype)
  table = workers.as_private(table, outer).at[lax.axis_index(outer)].set(row)
  members, weight, within, deviation, along = total_of(table, outer).T
  return NestedMoments(members, weight, within, deviation, along, of_mean)


def _sq_distance(a, b):
  return jnp.sum(_leaf_norms.sq_norms(
    jax.tree.leaves(a), jax.tree.leaves(b), of=lambda x, y: x - y))
