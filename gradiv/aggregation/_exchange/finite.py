"""Exclude gradients that are not finite from an exchange, and count them.

A gradient that is not finite is replaced by zeros, so that it cannot spoil a
sum. Which workers take part is learned from the psum that runs anyway.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv import workers
from gradiv._common import layout as layouts, trees
from gradiv.aggregation._exchange import membership

Participants = membership.Participants


@dataclasses.dataclass(frozen=True)
class Contribution:
  """A worker's gradient, replaced by zeros if it is not finite.

  Attributes:
    participants: The workers that exchange their gradients.
    grads: The gradient; with `Layout.mean_over`, the mean over the group.
    is_finite: Whether the gradient takes part; with `Layout.mean_over`,
      whether any gradient of the group does.
    num_left_out: Number of gradients excluded: 0 or 1, or up to the size of
      the group.
  """

  participants: Participants
  grads: optax.Updates
  is_finite: jax.Array
  num_left_out: jax.Array


def exclude_non_finite(
  grads: optax.Updates, participants: Participants
) -> Contribution:
  """Replace this worker's gradient by zeros if it is not finite.

  Raises:
    ValueError: If a leaf is not floating or, while tracing, if the gradient
      has already been reduced over an axis of the workers.
  """
  layout = participants.layout
  workers.check_private(grads, (*participants.names, *layout.mean_names))
  trees.check_floating(grads)
  finite = layouts.is_finite(grads, layout)
  grads = trees.keep_if(finite, grads)
  if not layout.mean_names:
    num_left_out = 1 - finite.astype(jnp.float32)
    return Contribution(participants, grads, finite, num_left_out)
  mean, count = mean_of_finite(grads, finite, layout.mean_names)
  num_left_out = workers.num_workers(layout.mean_names) - count
  return Contribution(participants, mean, count > 0, num_left_out)


def mean_of_finite(
  grads: optax.Updates, finite: jax.Array, names: workers.AxisName
) -> tuple[optax.Updates, jax.Array]:
  """Average the finite gradients over some axes, in at least float32.

  Args:
    grads: This worker's gradient; zeros unless it is finite.
    finite: Whether it is finite.
    names: The axes to average over.

  Returns:
    The mean, rounded once to the dtype of the gradient, and the number of
    finite gradients.
  """
  count = lax.psum(finite.astype(jnp.float32), names)

  def mean(g):
    total = lax.psum(trees.widen(g), names)
    return (total / jnp.maximum(count, 1)).astype(g.dtype)

  return jax.tree.map(mean, grads), count


def sum_with_presence(
  contribution: Contribution, tree: Any
) -> tuple[Any, jax.Array, jax.Array]:
  """Sum over the workers, and learn which of them take part: one psum.

  Args:
    contribution: This worker's contribution.
    tree: This worker's summand.

  Returns:
    The sum over the workers and their shards; which workers take part, [n];
    and the number of gradients left out.
  """
  participants = contribution.participants
  places = jnp.arange(participants.count)
  own = contribution.is_finite & (places == participants.index)
  record = (own.astype(jnp.float32), contribution.num_left_out)
  record = jax.tree.map(lambda x: participants.layout.count_once(
    x, is_sharded=False), record)
  total, (present, num_left_out) = participants.sum((tree, record))
  return total, present > 0.5, jnp.round(num_left_out).astype(jnp.int32)
