"""Exchange gradients slice by slice: an all-to-all, and an all-gather back.

Each of n workers holds a gradient of D elements. After `all_to_all`, each
holds the same n-th part of *every* worker's gradient, [n, D/n], for the
traffic of the first half of an all-reduce. In this layout a rule can see all
workers' values of a coordinate, or sum over coordinates. `all_gather`, the
second half of an all-reduce, puts the slices of the result back together. No
worker ever holds n·D elements.

With `Layout.mean_over` a worker is a group of m devices. Each group is averaged
by a reduce-scatter, and each member then takes its m-th part through the
exchange: D/m elements travel between groups.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv import workers
from gradiv._common import compat, early_sums, trees
from gradiv.aggregation._exchange import buckets, finite


@dataclasses.dataclass(frozen=True)
class Slices:
  """One worker's slice of the gradients of all workers.

  Attributes:
    contribution: The gradient that this worker sent.
    plan: How the gradient is packed into buckets.
    rows: [n, d] for each bucket. Row i comes from worker i, as it was sent:
      `keep` leaves out what is not finite.
    extra: [k, d] for each bucket: this worker's slice of k trees that are the
      same on all workers.
    num_extra: k.
  """

  contribution: finite.Contribution
  plan: buckets.Plan
  rows: tuple[jax.Array, ...]
  extra: tuple[jax.Array, ...]
  num_extra: int

  def keep(self, present: jax.Array) -> 'Slices':
    """Replace the rows of workers that do not take part by zeros.

    Args:
      present: Which workers take part, [n].
    """
    rows = tuple(jnp.where(present[:, None], rows, 0) for rows in self.rows)
    return dataclasses.replace(self, rows=rows)

  def keep_finite(self) -> 'Slices':
    """Do as `keep`, before anything is summed; costs an all-gather of n."""
    participants = self.contribution.participants
    if not participants.layout.mean_names:
      return self.keep(gather_presence(self.contribution))
    counts = participants.sum(participants.layout.count_once(
      finite.own_presence(self.contribution), is_sharded=False))
    if not participants.are_devices:
      return self.keep(counts > 0.5)
    size = participants.count * workers.num_workers(
      participants.layout.mean_names)

    def again(rows):
      del rows
      with jax.named_scope(early_sums.AGAIN):
        return self.send_again().rows

    # The counts are a sum over all: nobody enters a branch alone.
    rows = lax.cond(counts.sum() > size - 0.5, lambda rows: rows, again,
                    self.rows)
    return dataclasses.replace(self, rows=rows).keep(counts > 0.5)

  def send_again(self) -> 'Slices':
    """Send means of groups in which only the finite members count."""
    if not self.contribution.participants.layout.mean_names:
      return self
    return dataclasses.replace(
      self, rows=_send(self.contribution.without_the_others(), self.plan))


def all_to_all(
  contribution: finite.Contribution,
  extra: Sequence[optax.Updates] = (),
  *,
  leaf_by_leaf: bool = False,
) -> Slices:
  """Send each worker its slice of this gradient: D elements in all.

  A bucket is sent when its last leaf is there. As a backward pass starts with
  the last layer, the last bucket is sent first.

  Args:
    contribution: This worker's gradient.
    extra: Trees like the gradient that are the same on all workers. They are
      sliced in place, and are not sent.
    leaf_by_leaf: Give each leaf a bucket of its own, as `as_leaf_slices`
      needs.
  """
  participants, grads = contribution.participants, contribution.grads
  plan = buckets.plan(grads, participants, leaf_by_leaf=leaf_by_leaf)
  known = [jax.tree.leaves(tree) for tree in extra]
  names = (*participants.layout.mean_names, *participants.names)

  def slice_known(bucket):
    rows = [own_row(buckets.pack(tree, bucket, workers.num_workers(names)),
                    names) for tree in known]
    return jnp.stack(rows) if rows else jnp.zeros((0, 0), plan.dtype(bucket))

  return Slices(contribution, plan, _send(contribution, plan),
                tuple(map(slice_known, plan.buckets)), len(known))


def _send(contribution, plan):
  """Send the last bucket first; return the rows of all, in their order."""
  names = contribution.participants.names
  leaves = jax.tree.leaves(contribution.grads)
  rows = [lax.all_to_all(_mean_of_group(contribution, leaves, bucket), names,
                         0, 0, tiled=True)
          for bucket in reversed(plan.buckets)]
  return tuple(rows[::-1])


def _mean_of_group(contribution, leaves, bucket):
  """Return this member's part of its group's mean, a row for each worker."""
  n = contribution.participants.count
  mean_names = contribution.participants.layout.mean_names
  if not mean_names:
    return buckets.pack(leaves, bucket, n)
  rows = buckets.pack(leaves, bucket, n * workers.num_workers(mean_names))
  total = trees.widen(rows)
  for name in mean_names:
    total = lax.psum_scatter(total, name, tiled=True)
  return (total / contribution.num_members).astype(rows.dtype)


def all_gather(slices: Slices, parts: Sequence[jax.Array]) -> optax.Updates:
  """Put a result together from every worker's slice of it: D elements.

  Args:
    slices: The slices from which the result was computed.
    parts: This worker's part of the result, [d] for each bucket.
  """
  plan = slices.plan
  return buckets.unpack(plan, [
    gather_bucket(slices, bucket, part)
    for bucket, part in zip(plan.buckets, parts)])


def gather_bucket(
  slices: Slices, bucket: buckets.Bucket, part: jax.Array
) -> jax.Array:
  """Put one bucket of a result together from every worker's part of it."""
  participants = slices.contribution.participants
  return all_gather_vector(
    part.astype(slices.plan.dtype(bucket)),
    (*participants.layout.mean_names, *participants.names))


def as_leaf_slices(
  slices: Slices, parts: Sequence[jax.Array]
) -> optax.Updates:
  """Return this worker's part of the result as a tree, without any traffic.

  The parts are cut as `slice_leaves` cuts the parameters.
  """
  if not slices.plan.leaf_by_leaf:
    raise ValueError('leaf_by_leaf=False: must be True to keep slices')
  like, treedef = jax.tree.flatten(slices.plan.like)
  return treedef.unflatten(
    part.astype(x.dtype) for part, x in zip(parts, like))


def all_gather_vector(x: jax.Array, names: tuple[str, ...]) -> jax.Array:
  """Concatenate the workers' vectors; the result is the same on all."""
  # Axis by axis, the last first: under vmap, all_gather takes no tuple.
  for name in reversed(names):
    x = compat.all_gather_common(x, name)
  return x


def gather_presence(contribution: finite.Contribution) -> jax.Array:
  """Learn which workers take part, [n], before anything is summed.

  Costs an all-gather of n numbers. `finite.sum_with_presence` costs nothing of
  its own, but its result is known only when its sum is.
  """
  own = contribution.is_finite.astype(jnp.float32)[None]
  return all_gather_vector(own, contribution.participants.names) > 0.5


def own_row(rows: jax.Array, names: tuple[str, ...]) -> jax.Array:
  """Return this worker's row of an array with one row per worker."""
  return lax.dynamic_index_in_dim(rows, lax.axis_index(names), keepdims=False)
