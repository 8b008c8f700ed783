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
  """A device's gradient, and whether it takes part.

  With `Layout.mean_over` a worker is a group of devices, and contributes the
  mean of what the members of the group contribute.

  Attributes:
    participants: The workers that exchange their gradients.
    grads: The gradient as it is.
    is_finite: Whether the gradient takes part.
    num_left_out: Number of gradients excluded: 0 or 1.
    num_members: By what to divide the sum over the members of a group.
  """

  participants: Participants
  grads: optax.Updates
  is_finite: jax.Array
  num_left_out: jax.Array
  num_members: jax.Array | int = 1

  def or_zeros(self) -> optax.Updates:
    """Return the gradient, or zeros if it does not take part."""
    return trees.keep_if(self.is_finite, self.grads)

  def without_the_others(self) -> 'Contribution':
    """Leave out what is not finite before a group is averaged.

    Costs a psum of one number, and waits for the whole gradient.
    """
    count = lax.psum(self.is_finite.astype(jnp.float32),
                     self.participants.layout.mean_names)
    return dataclasses.replace(
      self, grads=self.or_zeros(), num_members=jnp.maximum(count, 1))


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
  is_finite = layouts.is_finite(grads, layout)
  own = Contribution(
    participants, grads, is_finite, 1 - is_finite.astype(jnp.float32))
  if not layout.mean_names:
    return own
  if not participants.are_devices:
    return own.without_the_others()
  return dataclasses.replace(
    own, num_members=workers.num_workers(layout.mean_names))


def contribute_mean(
  grads: optax.Updates, participants: Participants
) -> Contribution:
  """Do as `contribute`, with one gradient for the members of a group.

  For exchanges that do not average the groups themselves: each member of a
  group sends the whole mean. Waits for the whole gradient.
  """
  own = contribute(grads, participants)
  names = participants.layout.mean_names
  if not names:
    return own
  mean, count = mean_of_finite(own.or_zeros(), own.is_finite, names)
  alone = Participants(participants.names, dataclasses.replace(
    participants.layout, mean_over=None))
  return Contribution(
    alone, mean, count > 0, workers.num_workers(names) - count)


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
    The sum over the workers, their members and their shards; which workers
    take part, [n]; and the number of gradients left out.
  """
  participants = contribution.participants
  record = own_presence(contribution), contribution.num_left_out
  record = jax.tree.map(lambda x: participants.layout.count_once(
    x, is_sharded=False), record)
  total, (present, num_left_out) = participants.sum((tree, record))
  return total, present > 0.5, jnp.round(num_left_out).astype(jnp.int32)


def own_presence(contribution: Contribution) -> jax.Array:
  """Return 1 at the place of this worker if it takes part; else zeros, [n]."""
  places = jnp.arange(contribution.participants.count)
  own = contribution.is_finite & (places == contribution.participants.index)
  return own.astype(jnp.float32)
