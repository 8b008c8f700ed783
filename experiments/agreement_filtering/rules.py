"""The rules of the arms: weightings under one optimizer, which tallies them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import gradiv
from experiments.agreement_filtering.config import COMBINES
from gradiv import weightings


def build(name: str, lane: dict, every: int) -> weightings.Weighting:
  """Build the rule of an arm for a lane.

  Args:
    name: A way to filter, 'mean', 'geometric_median', 'random' or
      'equal_updates'.
    lane: Holds the 'threshold' of a filter; the 'sizes' and 'max_updates' of
      what copies one.
    every: Steps of a stage, see `random_subset`.
  """
  if name in COMBINES:
    return weightings.agreement(lane['threshold'], combine=name)
  return {
    'mean': plain_mean,
    'geometric_median': weightings.geometric_median,
    'random': lambda: random_subset(lane['sizes'], every),
    'equal_updates': lambda: mean_until(lane['max_updates'])}[name]()


def plain_mean() -> weightings.Weighting:
  """Weigh all alike; unlike `weightings.mean`, with the cosines measured."""
  return weightings.stateless(
    lambda gram, present: weightings.uniform(present))


def mean_until(max_updates: jax.Array) -> weightings.Weighting:
  """Weigh all alike for `max_updates` steps, and then with zero."""
  def step(gram, present, count, key):
    del gram, key
    weights = jnp.where(count < max_updates, weightings.uniform(present), 0)
    return weights, count + 1

  return weightings.Weighting(step, lambda n: jnp.zeros((), jnp.int32))


def random_subset(sizes: jax.Array, every: int) -> weightings.Weighting:
  """Average a random subset, of a size drawn from what a filter let through.

  Args:
    sizes: [stages, n + 1], how often it let 0, 1 ... n gradients through.
    every: Steps of a stage.
  """
  def step(gram, present, count, key):
    del gram
    draw, deal = jax.random.split(key)
    stage = sizes[jnp.minimum(count // every, len(sizes) - 1)]
    size = jax.random.categorical(draw, jnp.log(stage))
    places = jax.random.permutation(deal, len(present))
    # Those that are not finite last: they cannot be let through.
    order = jnp.argsort(jnp.where(present, places, len(present) + places))
    chosen = jnp.zeros_like(present).at[order].set(
      jnp.arange(len(present)) < size)
    return weightings.uniform(chosen & present), count + 1

  return weightings.Weighting(
    step, lambda n: jnp.zeros((), jnp.int32), needs_key=True)


class TallyState(NamedTuple):
  """What `tally` counts, from the start.

  Attributes:
    inner: State of the aggregation.
    sizes: [n + 1], how often 0, 1 ... n gradients were let through.
    cosine: Sum over the steps of the mean pairwise cosine.
    effective_size: Sum over the steps.
  """

  inner: Any
  sizes: jax.Array
  cosine: jax.Array
  effective_size: jax.Array


def tally(
  aggregate: optax.GradientTransformation, num_workers: int
) -> optax.GradientTransformation:
  """Count what an aggregation decides."""
  def init_fn(params):
    zero = jnp.zeros((), jnp.float32)
    return TallyState(aggregate.init(params),
                      jnp.zeros(num_workers + 1, jnp.int32), zero, zero)

  def update_fn(updates, state, params=None):
    updates, inner = aggregate.update(updates, state.inner, params)
    return updates, TallyState(
      inner, state.sizes.at[inner.num_agreed].add(1),
      state.cosine + inner.mean_cosine,
      state.effective_size + inner.effective_size)

  return optax.GradientTransformation(init_fn, update_fn)


def make_optimizer(
  rate: jax.Array, rule: weightings.Weighting, *, key: jax.Array,
  axis_name: gradiv.AxisName, num_workers: int, momentum: float,
  weight_decay: float,
) -> optax.GradientTransformation:
  """Build SGD as in the code of the paper, behind a rule.

  Decay and momentum follow the wire, and stand still with it.
  """
  aggregate = gradiv.aggregate_by_weights(rule, axis_name, key=key)
  return optax.chain(
    tally(aggregate, num_workers),
    gradiv.skip_zero_updates(optax.chain(
      optax.add_decayed_weights(weight_decay),
      optax.sgd(rate, momentum or None, nesterov=momentum > 0))))


def read(opt_state) -> dict:
  """Read the tally, as numbers to record."""
  state = opt_state[0]
  return {'sizes': state.sizes, 'cosine': state.cosine,
          'effective_size': state.effective_size}
