"""One exchange of gradients, in the cheaper of two ways.

Gradients are exchanged slice by slice, or, between two workers that get equal
weights, by their sum alone.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradiv import weightings
from gradiv.aggregation._exchange import (
  finite,
  products,
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


def collect(
  contribution: finite.Contribution,
  rule: weightings.Weighting,
  extra: Sequence[optax.Updates],
  *,
  sharded: bool,
) -> Collected:
  """Exchange gradients as a weighting needs them.

  Args:
    contribution: This worker's gradient.
    rule: The weighting.
    extra: Trees for the extra rows of the weighting.
    sharded: Whether to leave the update in slices.
  """
  by_sum = rule.equal_pair and not (extra or sharded)
  if by_sum and products.is_pair(contribution):
    return _collect_sum(contribution)
  slices = slices_lib.all_to_all(contribution, extra, leaf_by_leaf=sharded)
  if rule.of_differences:
    slices = slices.keep_finite()
  grams, present, num_left_out = products.gram_matrices(
    slices, centered=rule.of_differences)
  if not rule.of_differences:
    slices = slices.keep(present)
  assemble = slices_lib.as_leaf_slices if sharded else slices_lib.all_gather
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
