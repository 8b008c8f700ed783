"""Groups of leaves that are decided, and return, before others have arrived.

A backward pass ends with the first layer. A group of late layers can be
decided and sent back while the pass still works on the earlier ones. Only
whether all gradients are finite is not known by then: it is taken for granted,
and the rare step in which it does not hold is decided and sent back again.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from gradiv._common import early_sums
from gradiv.aggregation._exchange import (
  buckets,
  finite,
  products,
  slices as slices_lib,
)

# Groups are decided in waves. Each wave compiles a decision of its own: LEAST
# is the fewest elements of a wave, MOST_WAVES the largest number of waves.
LEAST = buckets.SMALL_LEAF
MOST_WAVES = 8

# Function of the indices of k groups, of their Gram matrices, and of who takes
# part, [n], to the weights, [k, n], and to anything else of k rows.
Decide = Callable[
  [np.ndarray, Sequence[jax.Array], jax.Array],
  tuple[Sequence[jax.Array] | jax.Array, Any]]


class Wave(NamedTuple):
  """Groups that are decided together.

  Attributes:
    groups: Indices of the groups.
    places: Places of their buckets in the plan.
  """

  groups: np.ndarray
  places: list[int]


def waves_of(plan: buckets.Plan) -> list[Wave]:
  """Cut the groups into waves, in the order in which they arrive.

  A group has arrived when its first bucket has, because that is sent last.
  """
  places = [[i for i, bucket in enumerate(plan.buckets)
             if bucket.group == group] for group in range(plan.num_groups)]
  order = sorted(range(plan.num_groups), key=lambda group: -min(
    places[group], default=len(plan.buckets)))
  total = sum(bucket.size for bucket in plan.buckets)
  waves, groups, size = [], [], 0
  for group in order:
    groups.append(group)
    size += sum(plan.buckets[i].size for i in places[group])
    if size >= max(LEAST, total // MOST_WAVES) or group == order[-1]:
      waves.append(Wave(
        np.array(groups), [i for g in groups for i in places[g]]))
      groups, size = [], 0
  return waves


def exchange(
  contribution: finite.Contribution,
  extra: Sequence[optax.Updates],
  decide: Decide,
  *,
  centered: bool,
) -> tuple[optax.Updates, tuple[Any, Any], jax.Array]:
  """Exchange gradients between devices, and decide each wave as it arrives.

  Args:
    contribution: This worker's gradient.
    extra: Trees for the extra rows of the weighting.
    decide: Decides some of the groups.
    centered: Whether the rule sees Gram matrices of differences.

  Returns:
    The sum of the gradients with the weights of their groups; what `decide`
    returned, for all groups in their order; and the number of gradients left
    out.
  """
  slices = slices_lib.all_to_all(contribution, extra)
  waves = waves_of(slices.plan)
  own_parts = products.own_parts(slices, centered=centered)
  everyone = jnp.ones(contribution.participants.count, bool)
  present, left_out = everyone, jnp.int32(0)  # until the last has arrived
  decided, sent, grams = [], {}, ()
  for wave in waves:
    parts = tuple(own_parts[group] for group in wave.groups)
    parts, flags = _after(
      grams, (parts, (contribution.is_finite, contribution.num_left_out)))
    if wave is waves[-1]:
      own = dataclasses.replace(
        contribution, is_finite=flags[0], num_left_out=flags[1])
      parts, present, left_out = finite.sum_with_presence(own, parts)
    else:
      parts = contribution.participants.sum(parts)
    decided.append(decide(wave.groups, parts, everyone))
    weights = dict(zip(wave.groups, decided[-1][0]))
    sent |= {i: _send_back(slices, i, weights) for i in wave.places}
    grams += parts
  order = np.argsort(np.concatenate([wave.groups for wave in waves]))
  decided = jax.tree.map(lambda *xs: jnp.concatenate(xs)[order], *decided)
  once_more = _OnceMore(slices, decide, present, centered)
  decided = _unless(left_out, decided, once_more.decide,
                    tuple(grams[i] for i in order))
  # A wave at a time, because XLA copies what a cond passes on.
  for wave in waves:
    sent |= _unless(left_out, {i: sent[i] for i in wave.places},
                    once_more.send_back, decided[0])
  update = buckets.unpack(slices.plan, [sent[i] for i in range(len(sent))])
  return update, decided, left_out


def pays(contribution: finite.Contribution) -> bool:
  """Return whether groups lie on devices, and make more than one wave."""
  participants = contribution.participants
  return participants.are_devices and len(waves_of(
    buckets.plan(contribution.grads, participants))) > 1


@dataclasses.dataclass(frozen=True)
class _OnceMore:
  """Decides and sends in a step in which a gradient is left out."""

  slices: slices_lib.Slices
  decide_groups: Decide
  present: jax.Array
  centered: bool

  def decide(self, decided, grams):
    """Decide all groups by the gradients that are present."""
    del decided
    participants = self.slices.contribution.participants
    if self.centered or participants.layout.mean_names:
      kept = self._kept()
      grams = participants.sum(
        products.own_parts(kept, centered=self.centered))
    return self.decide_groups(
      np.arange(len(grams)), products.mask(grams, self.present), self.present)

  def send_back(self, sent, weights):
    """Send some buckets back."""
    kept = self._kept()
    return {i: _send_back(kept, i, weights) for i in sent}

  def _kept(self):
    return self.slices.send_again().keep(self.present)


def _unless(left_out, found, again, *args):
  """Return what was found, or find it once more if gradients are left out."""
  def repeat(found, *args):
    with jax.named_scope(early_sums.AGAIN):
      return again(found, *args)

  return lax.cond(left_out == 0, lambda found, *args: found, repeat, found,
                  *args)


def _after(grams, tree):
  """Let the next sum over the workers wait for the last one.

  XLA joins sums that do not depend on each other, and then all would wait for
  the last. A squared norm is never negative, but XLA does not know that.
  """
  if not grams:
    return tree
  never = grams[-1][0, 0] < 0
  return jax.tree.map(lambda x: jnp.where(never, jnp.zeros_like(x), x), tree)


def _send_back(slices, place, weights):
  """Gather the weighted sum of one bucket."""
  bucket = slices.plan.buckets[place]
  return slices_lib.gather_bucket(slices, bucket, products.weighted_sum(
    slices.rows[place], slices.extra[place], weights[bucket.group]))
