"""Replays the alarm over the Gram matrices of `training`: what it finds, when.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.robustness import training
from gradiv import weightings

BAD = training.BAD
# Thresholds of the two parts of the alarm.
JUMPS = (1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0)
STEPS_TO_FALSE_ALARM = (1e2, 1e3, 1e4, 1e5, 1e6)
# Jumps are told once the first window of records is full.
WARM_UP = 512


class Found(NamedTuple):
  """What the alarm finds.

  Attributes:
    false_jumps: By threshold, share of the healthy steps in which any worker
      jumps, [jumps].
    harmful: By threshold, share of the flipped bits that harm that are seen at
      once, as a jump of the bad worker or by its absence, [jumps].
    by_bit: At the default threshold, share of all flips that are seen, and of
      all that harm, [32] each.
    first_steps: By fault, steps from its begin until the alarm names the bad
      worker, [thresholds, seeds]; infinite if it does not within the run.
    wrong: By fault, number of seeds in which another worker was named before,
      at any threshold of 1e5 or more.
    false_alarms: By threshold, alarms in all healthy steps.
    steps: How many healthy steps there were, of all seeds.
    compared_steps: How many of them were past the first window of records.
  """

  false_jumps: np.ndarray
  harmful: np.ndarray
  by_bit: tuple[np.ndarray, np.ndarray]
  first_steps: dict[str, np.ndarray]
  wrong: dict[str, int]
  false_alarms: np.ndarray
  steps: int
  compared_steps: int


def replay(grams: training.Grams) -> Found:
  """Run the alarm over all steps of all seeds."""
  jumped, caught = (np.asarray(x)[:, :, WARM_UP:] for x in _over(
    JUMPS, lambda jump: _jumps(jump, grams)))
  harms = grams.harms[:, WARM_UP:]
  at_two = caught[JUMPS.index(2.0)]
  named = {fault: np.asarray(_over(
    STEPS_TO_FALSE_ALARM, lambda c: _names(c, grams.healthy, after)))
    for fault, after in grams.broken.items()}
  begin = grams.healthy.shape[1]
  return Found(
    false_jumps=jumped.mean((1, 2)),
    harmful=caught[:, harms].mean(-1),
    by_bit=(at_two.mean((0, 1)), harms.mean((0, 1))),
    first_steps={fault: _first(x[..., begin:] == BAD)
                 for fault, x in named.items()},
    wrong={fault: int(np.isin(x[-2, :, begin:], (-1, BAD),
                              invert=True).any(-1).sum())
           for fault, x in named.items()},
    false_alarms=_begins(named['zeros'][..., :begin] >= 0).sum((1, 2)),
    steps=harms.shape[0] * begin,
    compared_steps=harms.shape[0] * harms.shape[1])


def _over(thresholds, fn):
  return jax.tree.map(lambda *x: np.stack(x), *map(fn, thresholds))


def _jumps(jump, grams):
  """Tell at each healthy step who jumps, and who would with a flipped bit."""
  rule = weightings.with_alarm(weightings.mean(), jump=jump)

  def step(state, seen):
    gram, rows = seen
    what_if = jax.vmap(lambda row: _step(rule, gram.at[BAD].set(row).at[
      :, BAD].set(row), state))(rows)
    count = state.num_jumps[BAD]
    caught = (what_if.num_jumps[:, BAD] > count) | ~jnp.isfinite(
      what_if.norm[:, BAD])
    after = _step(rule, gram, state)
    return after, ((after.num_jumps > state.num_jumps).any(), caught)

  run = lambda *seen: jax.lax.scan(
    step, rule.init(training.NUM_WORKERS), seen)[1]
  return jax.jit(jax.vmap(run))(grams.healthy, grams.flipped)


def _names(limit, *grams):
  """Tell whom the alarm names at each step, [seeds, steps]; -1 for nobody."""
  rule = weightings.with_alarm(
    weightings.mean(), steps_to_false_alarm=limit)

  def step(state, gram):
    state = _step(rule, gram, state)
    return state, weightings.read_alarm(state).worker

  run = lambda grams: jax.lax.scan(
    step, rule.init(training.NUM_WORKERS), grams)[1]
  return jax.jit(jax.vmap(run))(np.concatenate(grams, 1))


def _step(rule, gram, state):
  present = jnp.isfinite(jnp.diagonal(gram))
  gram = jnp.where(present[:, None] & present[None, :], gram, 0)
  return rule.step(gram, present, state, None)[1]


def _first(is_named):
  """Count the steps up to the first at which it is, [..., steps] -> [...]."""
  return np.where(is_named.any(-1), is_named.argmax(-1) + 1, np.inf)


def _begins(is_raised):
  return is_raised & ~np.pad(is_raised, ((0, 0), (0, 0), (1, 0)))[..., :-1]
