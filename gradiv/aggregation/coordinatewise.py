"""Rules that decide coordinate by coordinate, on exchanged slices.

A median cannot be computed from a Gram matrix. After the exchange, however,
each worker holds a slice of all gradients and can apply any rule to its
coordinates, for the traffic of the Gram rules.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv import workers
from gradiv._common import counting, draws, layout as layouts, stateful, trees
from gradiv.aggregation._exchange import (
  finite,
  membership,
  slices as slices_lib,
)


class AggregateByCoordinateState(NamedTuple):
  """State of the rules that decide coordinate by coordinate.

  Attributes:
    count: Number of steps so far.
    num_left_out: Number of gradients left out so far because they were not
      finite.
    fraction_kept: Fraction of the last update that was kept: the mean of the
      mask, or of the fraction of the values kept at each coordinate; 1 for
      rules that have neither.
    rng_key: The key of a rule that draws; else ().
  """

  count: jax.Array
  num_left_out: jax.Array
  fraction_kept: jax.Array
  rng_key: Any


def by_coordinate(
  decide: Callable,
  axis_name: workers.AxisName,
  layout: layouts.Layout | None,
  *,
  purpose: str = '',
  key: jax.Array | None = None,
  normalize: bool = False,
  select: Callable | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Create a transformation from a rule for the rows of one slice.

  Args:
    decide: Function (rows [n, d] float32, present [n], key) -> (values [d],
      mask [d] or None); a mask of None stands for ones.
    axis_name: Axis, or axes, of the workers.
    layout: Layout of the gradients, without groups.
    purpose: Name folded into the key.
    key: Key of a rule that draws.
    normalize: Whether to divide each leaf by the mean of its mask.
    select: Function from the slices to the workers that take part, [n], and
      the number of gradients left out; by default all finite ones take part.
  """
  participants = membership.Participants.of(
    axis_name, layout, unsupported=('groups',))
  rule = _Rule(decide, participants, purpose, key, normalize,
               select or _select_finite)
  return stateful.transformation(
    rule.init, rule.update, AggregateByCoordinateState)


@dataclasses.dataclass(frozen=True)
class _Rule:
  """The arguments of `by_coordinate`, checked."""

  decide: Callable
  participants: membership.Participants
  purpose: str
  key: jax.Array | None
  normalize: bool
  select: Callable

  def init(self, params: optax.Params) -> AggregateByCoordinateState:
    del params
    return AggregateByCoordinateState(
      count=jnp.zeros((), jnp.int32),
      num_left_out=jnp.zeros((), jnp.int32),
      fraction_kept=jnp.zeros((), jnp.float32),
      rng_key=() if self.key is None else draws.copy_key(self.key))

  def update(self, updates, state, params=None, **extra_args):
    del params, extra_args
    slices = slices_lib.all_to_all(
      finite.contribute(updates, self.participants),
      leaf_by_leaf=self.normalize)
    if self.participants.layout.mean_names:
      slices = slices.keep_finite()
    present, num_left_out = self.select(slices)
    values, masks = [], []
    for i, rows in enumerate(slices.keep(present).rows):
      value, mask = self.decide(
        trees.widen(rows), present, self._key_of_bucket(state, slices, i))
      values.append(value)
      masks.append(mask)
    fraction_kept = jnp.float32(1)
    if masks and masks[0] is not None:
      sums, sizes = _sum_masks(slices, masks)
      fraction_kept = jnp.sum(sums) / jnp.maximum(jnp.sum(sizes), 1)
      if self.normalize:
        values = [value / (1e-10 + sums[i] / sizes[i])
                  for i, value in enumerate(values)]
    return slices_lib.all_gather(slices, values), AggregateByCoordinateState(
      counting.increment(state.count),
      counting.increment(state.num_left_out, num_left_out),
      fraction_kept, state.rng_key)

  def _key_of_bucket(self, state, slices, i):
    if self.key is None:
      return None
    step_key = draws.key_of(
      draws.DrawState(state.count, state.rng_key), self.purpose)
    # Shards draw independently, but copies of one leaf must stay equal.
    names = self.participants.names
    if slices.plan.buckets[i].is_sharded:
      names = (*names, *self.participants.layout.shard_names)
    return workers.worker_key(jax.random.fold_in(step_key, i), names)


def mean_of(rows: jax.Array, keep: jax.Array) -> jax.Array:
  """Average the rows [n, d] over what is kept, [n, d] or [n, 1]."""
  total = jnp.where(keep, rows, 0).sum(0)
  return total / jnp.maximum(keep.sum(0), 1)


def _select_finite(slices):
  _, present, num_left_out = finite.sum_with_presence(slices.contribution, ())
  return present, num_left_out


def _sum_masks(slices, masks):
  """Sum the mask of each bucket over all workers, without the padding.

  Returns:
    The sums and the sizes of the buckets, over all shards.
  """
  participants, sums, sizes = slices.contribution.participants, [], []
  place = lax.axis_index(
    (*participants.layout.mean_names, *participants.names))
  for bucket, mask in zip(slices.plan.buckets, masks):
    first = place * mask.size
    is_real = first + jnp.arange(mask.size) < bucket.size
    total = jnp.where(is_real, mask.astype(jnp.float32), 0).sum()
    sums.append(participants.layout.count_once(total, bucket.is_sharded))
    num_shards = participants.layout.num_shards if bucket.is_sharded else 1
    sizes.append(bucket.size * num_shards)
  return participants.sum(jnp.stack(sums)), jnp.array(sizes, jnp.float32)
