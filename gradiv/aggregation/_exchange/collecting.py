"""One exchange of gradients, in the cheapest of four ways.

Gradients are exchanged slice by slice, with groups wave by wave; or, between
two workers that get equal weights, by their sum alone. Workers under `vmap`
exchange nothing.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gradiv import weightings
from gradiv._common import one_device
from gradiv.aggregation._exchange import (
  buckets,
  early_groups,
  finite,
  products,
  rows as rows_lib,
  slices as slices_lib,
)


class Collected(NamedTuple):
  """Result of an exchange, on one worker.

  Attributes:
    grams: Gram matrix of each group.
    present: Which workers take part, [n].
    num_left_out: Number of gradients left out.
    weighted_sum: Function from the weights of each group, as a list or along
      the first axis of an array, to the update.
  """

  grams: products.Grams
  present: jax.Array
  num_left_out: jax.Array
  weighted_sum: Callable[[Sequence[jax.Array] | jax.Array], optax.Updates]


def exchange(
  contribution: finite.Contribution,
  rule: weightings.Weighting,
  extra: Sequence[optax.Updates],
  decide: early_groups.Decide,
  *,
  sharded: bool,
) -> tuple[optax.Updates, tuple[Any, Any], jax.Array]:
  """Exchange gradients as a weighting needs them, and sum them.

  Args:
    contribution: This worker's gradient.
    rule: The weighting.
    extra: Trees for the extra rows of the weighting.
    decide: Decides some of the groups by their Gram matrices.
    sharded: Whether to leave the update in slices.

  Returns:
    The update, what `decide` returned for all groups, and the number of
    gradients left out.
  """
  by_sum = rule.equal_pair and not (extra or sharded)
  if by_sum and products.is_pair(contribution):
    collected = _collect_sum(contribution)
  elif sharded:
    collected = _collect_slices(contribution, extra, rule.of_differences,
                                stay_sliced=True)
  elif early_groups.pays(contribution):
    return early_groups.exchange(
      contribution, extra, decide, centered=rule.of_differences)
  else:
    collected = collect_all(contribution, extra, centered=rule.of_differences)
  decided = decide(
    np.arange(len(collected.grams)), collected.grams, collected.present)
  return (collected.weighted_sum(decided[0]), decided,
          collected.num_left_out)


def collect_all(
  contribution: finite.Contribution, extra: Sequence[optax.Updates] = (), *,
  centered: bool = False,
) -> Collected:
  """Exchange gradients whatever the rule, unless they lie on one device.

  Args:
    contribution: This worker's gradient.
    extra: Trees for extra rows, the same on all workers.
    centered: Whether the matrices are those of differences.
  """
  participants = contribution.participants
  layout = participants.layout
  if layout.mean_names or layout.shard_names or len(participants.names) > 1:
    return _collect_slices(contribution, extra, centered)
  tree = contribution.grads
  plan = buckets.plan(tree, participants)
  groups = participants.group_of_leaves(tree).tolist()
  num_groups = participants.num_groups(tree)
  own = lambda grads, is_finite, num_left_out: dataclasses.replace(
    contribution, grads=grads, is_finite=is_finite, num_left_out=num_left_out)

  def exchange_slices(grads, is_finite, num_left_out, extra):
    slices, grams, present, num_left_out = _exchange(
      own(grads, is_finite, num_left_out), extra, centered)
    return grams, present, num_left_out, slices.rows, slices.extra

  def exchange_rows(grads, is_finite, num_left_out, extra):
    del num_left_out
    n = len(is_finite)
    # The matrix shows who is finite, so that nobody computes `is_finite`.
    grams, present = rows_lib.gram_matrices(
      grads, n, _one_of(extra), groups, num_groups, centered=centered)
    return grams, present, (n - present.sum()).astype(jnp.int32), *_no_slices(
      plan, _one_of(grads), n, len(extra))

  grams, present, num_left_out, rows, known = one_device.directly(
    exchange_slices, exchange_rows, participants.names, tree,
    contribution.is_finite, contribution.num_left_out, tuple(extra))

  def weigh(grads, sliced, present, extra, weights):
    del grads, present
    rows, known = sliced
    slices = slices_lib.Slices(contribution, plan, rows, known, len(extra))
    return slices_lib.all_gather(
      slices, products.weighted_sums(slices, weights))

  def weigh_rows(grads, sliced, present, extra, weights):
    del sliced
    return rows_lib.weighted_sum(
      grads, _one_of(present), _one_of(extra), _one_of(weights), groups)

  return Collected(
    grams, present, num_left_out,
    lambda weights: one_device.directly(
      weigh, weigh_rows, participants.names, tree, (rows, known), present,
      tuple(extra), weights))


def _one_of(tree: Any) -> Any:
  """Take the first of rows that are all alike."""
  return jax.tree.map(lambda x: x[0], tree)


def _no_slices(plan, grads, n, num_extra):
  """Stand in for slices that nobody reads: NaN, should anybody do."""
  leaves, sliced, known = jax.tree.leaves(grads), [], []
  for bucket in plan.buckets:
    shape = jax.eval_shape(
      lambda leaves, bucket=bucket: buckets.pack(leaves, bucket, n), leaves)
    sliced.append(jnp.full(shape.shape, jnp.nan, shape.dtype))
    size = (num_extra, shape.shape[1]) if num_extra else (0, 0)
    known.append(jnp.full(size, jnp.nan, plan.dtype(bucket)))
  return tuple(sliced), tuple(known)


def _exchange(contribution, extra, centered, leaf_by_leaf=False):
  """Exchange slices, and learn the Gram matrices and who takes part."""
  slices = slices_lib.all_to_all(
    contribution, extra, leaf_by_leaf=leaf_by_leaf)
  is_final = centered or contribution.participants.layout.mean_names
  if is_final:
    slices = slices.keep_finite()
  grams, present, num_left_out = products.gram_matrices(
    slices, centered=centered)
  if not is_final:
    slices = slices.keep(present)
  return slices, grams, present, num_left_out


def _collect_slices(contribution, extra, centered, *, stay_sliced=False):
  slices, grams, present, num_left_out = _exchange(
    contribution, extra, centered, stay_sliced)
  assemble = (slices_lib.as_leaf_slices if stay_sliced
              else slices_lib.all_gather)
  return Collected(
    grams, present, num_left_out,
    lambda weights: assemble(slices, products.weighted_sums(slices, weights)))


def _collect_sum(contribution):
  grams, present, num_left_out, total = products.gram_matrices_of_pair(
    contribution)
  groups = contribution.participants.group_of_leaves(total)
  # Both weights are the same, unless one of the workers is not in the sum.
  either = jnp.argmax(present)

  def weighted_sum(weights):
    leaves, treedef = jax.tree.flatten(total)
    return treedef.unflatten(
      leaf * weights[group][either] for leaf, group in zip(leaves, groups))

  return Collected(grams, present, num_left_out, weighted_sum)
