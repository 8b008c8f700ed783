"""Exchange gradients slice by slice: an all-to-all, and an all-gather back.

Each of n workers holds a gradient of D elements. After `all_to_all`, each
holds the same n-th part of *every* worker's gradient, [n, D/n], for the
traffic of the first half of an all-reduce. In this layout a rule can see all
workers' values of a coordinate, or sum over coordinates. `all_gather`, the
second half of an all-reduce, puts the slices of the result back together. No
worker ever holds n·D elements.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv._common import compat
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
    return self.keep(gather_presence(self.contribution))


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
  leaves, known = jax.tree.leaves(grads), [jax.tree.leaves(t) for t in extra]

  def send(bucket):
    return lax.all_to_all(buckets.pack(leaves, bucket, participants.count),
                          participants.names, 0, 0, tiled=True)

  def slice_known(bucket):
    rows = [own_row(buckets.pack(tree, bucket, participants.count),
                    participants.names) for tree in known]
    return jnp.stack(rows) if rows else jnp.zeros((0, 0), plan.dtype(bucket))

  rows = [send(bucket) for bucket in reversed(plan.buckets)][::-1]
  return Slices(contribution, plan, tuple(rows),
                tuple(map(slice_known, plan.buckets)), len(known))


def all_gather(slices: Slices, parts: Sequence[jax.Array]) -> optax.Updates:
  """Put a result together from every worker's slice of it: D elements.

  Args:
    slices: The slices from which the result was computed.
    parts: This worker's part of the result, [d] for each bucket.
  """
  plan, names = slices.plan, slices.contribution.participants.names
  return buckets.unpack(plan, [
    all_gather_vector(part.astype(plan.dtype(bucket)), names)
    for bucket, part in zip(plan.buckets, parts)])


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
