"""Rules that decide coordinate by coordinate, in the layout of the Gram rules.

No Gram matrix can tell a median. But where a worker holds a slice of all
gradients it can act on each coordinate of it, for the same traffic.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv import workers
from gradiv._common import trees
from gradiv.aggregation._exchange import layout as wires, slices


class AggregateByCoordinateState(NamedTuple):
  """State of the rules that decide coordinate by coordinate.

  Attributes:
    count: Steps so far.
    num_left_out: Gradients left out so far, as they were not finite.
    share_kept: Of the last update, how much passed: the mean of the mask, or
      of the share of the values that were kept; 1 for rules without either.
    rng_key: The key, for a rule that draws.
  """

  count: jax.Array
  num_left_out: jax.Array
  share_kept: jax.Array
  rng_key: Any


def by_coordinate(
  fn: Callable,
  axis_name: workers.AxisName,
  layout: dict[str, Any],
  *,
  key: jax.Array | None = None,
  normalize: bool = False,
  select: Callable | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Make a transformation of fn(rows [n, d], present, key) -> values, mask.

  Args:
    fn: The rule, on float32 rows; a mask of None stands for ones.
    axis_name: The axis.
    layout: Further fields of `Wire`.
    key: For a rule that draws.
    normalize: Divide each leaf by the mean of its mask.
    select: slices -> who takes part [n], and how many are left out.
  """
  wire = wires.Wire.of(axis_name, layout, (
    'mean_over', 'sharded_over', 'is_sharded'), leaf_by_leaf=normalize)
  select = select or (lambda met: wires.read_flags(
    wires.sum_over(wire, wires.flags_of(met))))

  def init_fn(params):
    del params
    zero = jnp.zeros((), jnp.int32)
    return AggregateByCoordinateState(
      zero, zero, jnp.zeros((), jnp.float32), () if key is None else key)

  def update_fn(updates, state, params=None, **extra_args):
    del params, extra_args
    met = slices.scatter(wires.admit(updates, wire))
    present, left_out = select(met)
    values, masks = [], []
    for i, rows in enumerate(met.rows):
      value, mask = fn(trees.widen(rows), present,
                       _key_for(key, state, i, met))
      values.append(value)
      masks.append(mask)
    share = jnp.float32(1)
    if masks and masks[0] is not None:
      sums, sizes = _mask_sums(met, masks)
      share = jnp.sum(sums) / jnp.maximum(jnp.sum(sizes), 1)
      if normalize:
        values = [value / (1e-10 + sums[i] / sizes[i])
                  for i, value in enumerate(values)]
    state = AggregateByCoordinateState(
      optax.safe_increment(state.count), state.num_left_out + left_out,
      share, state.rng_key)
    return slices.gather(met, values), state

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _key_for(key, state, i, met):
  if key is None:
    return None
  step = jax.random.fold_in(state.rng_key, state.count)
  # Each shard draws its own numbers too; what is the same on all must stay so.
  kinds = ('axis_name',) + ('sharded_over',) * met.buckets[i].is_sharded
  return workers.worker_key(jax.random.fold_in(step, i), met.wire.names(*kinds))


def _mask_sums(met, masks):
  """Add the mask of each bucket up over all workers; padding left out."""
  sums, sizes = [], []
  for bucket, mask in zip(met.buckets, masks):
    first = lax.axis_index(met.wire.names('axis_name')) * mask.size
    real = first + jnp.arange(mask.size) < bucket.size
    shards = 1 if bucket.is_sharded else met.wire.num_shards
    sums.append(jnp.where(real, mask.astype(jnp.float32), 0).sum() / shards)
    sizes.append(bucket.size * met.wire.num_shards / shards)
  sums = wires.sum_over(met.wire, jnp.stack(sums))
  return sums, jnp.array(sizes, jnp.float32)


def mean_of(rows: jax.Array, keep: jax.Array) -> jax.Array:
  """Average the rows [n, d] that are to be kept [n, d] or [n, 1]."""
  total = jnp.where(keep, rows, 0).sum(0)
  return total / jnp.maximum(keep.sum(0), 1)
