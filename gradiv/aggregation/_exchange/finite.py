"""Leave gradients that are not finite out of an exchange, and count them.

Whether a gradient is finite is known when its last element is. So that an
exchange need not wait for that, gradients are sent as they are, and those that
are not finite are left out where they arrive. Which workers take part is
learned from the psum that runs anyway.
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
  """A worker's gradient, and whether it takes part.

  Attributes:
    participants: The workers that exchange their gradients.
    grads: The gradient as it is; with `Layout.mean_over`, the mean of the
      finite ones of the group.
    is_finite: Whether the gradient takes part; with `Layout.mean_over`,
      whether any gradient of the group does.
    num_left_out: Number of gradients excluded: 0 or 1, or up to the size of
      the group.
  """

  participants: Participants
  grads: optax.Updates
  is_finite: jax.Array
  num_left_out: jax.Array

  def or_zeros(self) -> optax.Updates:
    """Return the gradient, or zeros if it does not take part."""
    return trees.keep_if(self.is_finite, self.grads)


def contribute(
  grads: optax.Updates, participants: Participants
) -> Contribution:
  """Learn whether this worker's gradient is finite.

  Raises:
    ValueError: If a leaf is not floating or, while tracing, if the gradient
      has already been reduced over an axis of the workers.
  """
  layout = participants.layout
  workers.check_private(grads, (*participants.names, *layout.mean_names))
  trees.check_floating(grads)
  finite = layouts.is_finite(grads, layout)
  if not layout.mean_names:
    num_left_out = 1 - finite.astype(jnp.float32)
    return Contribution(participants, grads, finite, num_left_out)
  # Groups differ in who is left out, so that they must not part in a cond.
  mean, count = mean_of_finite(
    trees.keep_if(finite, grads), finite, layout.mean_names)
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
  total = jax.tree.map(lambda g: lax.psum(trees.widen(g), names), grads)
  mean = lambda t, g: (t / jnp.maximum(count, 1)).astype(g.dtype)
  return jax.tree.map(mean, total, grads), count


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
