"""The arms that `agreement_filtering` compares: rules, and their controls.

Each arm is a weighting under one optimizer, so that arms differ in nothing
else. The controls do what a filter does to the training, and not why:

  random         lets through as many micro-gradients as the filter did at this
                 stage of its own run, none included, but picks them blindly
  equal_updates  is the mean, and ends after as many updates as the filter made
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import gradiv
from experiments.agreement_filtering.config import FILTER, Config
from gradiv import weightings


@dataclasses.dataclass(frozen=True)
class Arm:
  """One way to combine micro-gradients, over all settings of its lanes.

  Attributes:
    name: Of its folder.
    label: Of its line.
    make: lane -> weighting.
    thresholds: One lane each; a rule without one has (2.0,).
    balance: Which labels balance the micro-batches: 'noisy' or 'clean'.
    partner: Whether it needs the records of `FILTER`.
  """

  name: str
  label: str
  make: Callable[[dict], weightings.Weighting]
  thresholds: tuple[float, ...] = (2.0,)
  balance: str = 'noisy'
  partner: bool = False


def list_arms(config: Config) -> list[Arm]:
  """List all arms, those that others need first."""
  filtered = lambda combine: lambda lane: weightings.agreement(
    lane['threshold'], combine=combine)
  mean = lambda lane: plain_mean()
  return [
    *(Arm(combine, f'filter: {combine.replace("_", " ")}', filtered(combine),
          config.thresholds) for combine in config.combines),
    Arm('mean', 'mean', mean),
    Arm('geometric_median', 'geometric median',
        lambda lane: weightings.geometric_median()),
    Arm('random', 'blind filter, same rate',
        lambda lane: random_subset(lane['sizes'], config.every), partner=True),
    Arm('equal_updates', 'mean, as many updates',
        lambda lane: mean_until(lane['max_updates']), partner=True),
    Arm('mean_clean', 'mean, balanced by true labels', mean, balance='clean'),
    Arm(f'{FILTER}_clean', 'filter, balanced by true labels', filtered(FILTER),
        (config.control_threshold,), balance='clean'),
  ]


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
  lane: dict, arm: Arm, *, key: jax.Array, axis_name: gradiv.AxisName,
  num_workers: int, momentum: float, weight_decay: float,
) -> optax.GradientTransformation:
  """Build SGD as in the code of the paper, behind the rule of an arm.

  Decay and momentum follow the wire, and stand still with it.
  """
  aggregate = gradiv.aggregate_by_weights(arm.make(lane), axis_name, key=key)
  return optax.chain(
    tally(aggregate, num_workers),
    gradiv.skip_zero_updates(optax.chain(
      optax.add_decayed_weights(weight_decay),
      optax.sgd(lane['rate'], momentum or None,
                nesterov=momentum > 0))))


def read(opt_state) -> dict:
  """Read the tally, as numbers to record."""
  state = opt_state[0]
  return {'sizes': state.sizes, 'cosine': state.cosine,
          'effective_size': state.effective_size}
