"""An optimizer from flags: the update rule, its rate over time, and averages.

A paper's config derives from `Flags`, and gains the flags; `make` turns them
into an optax transformation, to stand behind the one that aggregates.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import optax

from experiments.common import flags
from experiments.common.flags import flag

OPTIMIZERS = ('sgd', 'momentum', 'adam', 'adamw')
SCHEDULES = ('constant', 'cosine', 'linear', 'step')


@dataclasses.dataclass(frozen=True)
class Flags:
  """The flags of an optimizer; `class Config(optimizers.Flags, flags.Config)`.

  The flag of the schedule is not named `schedule`, which is a method of
  `flags.Config`.
  """

  optimizer: str = flag('sgd', ', '.join(OPTIMIZERS))
  momentum: float = flag(0.9, 'of --optimizer=momentum')
  rate_schedule: str = flag(
    'constant', f'{", ".join(SCHEDULES)}: how the learning rate falls after '
    'the warm-up; cosine and linear end at 0')
  rate_cuts: tuple[float, ...] = flag(
    (0.5, 0.75), 'with --rate_schedule=step, the shares of the run after which '
    'the learning rate is divided by 10')
  warmup_steps: int = flag(0, 'steps in which the learning rate rises from 0')
  clip_norm: float = flag(0.0, 'largest norm of a gradient; 0: any')
  weight_decay: float = flag(0.0, 'added to the gradient, times the params; '
                             'with adamw, to the update')
  ema: float = flag(0.0, 'decay of the average of the params that is '
                    'evaluated; 0: evaluate the params themselves')

  def __post_init__(self):
    getattr(super(), '__post_init__', lambda: None)()
    check = flags.check
    check(self.optimizer, 'optimizer', f'one of {", ".join(OPTIMIZERS)}',
          lambda name: name in OPTIMIZERS)
    check(self.momentum, 'momentum', 'from 0 to below 1', lambda m: 0 <= m < 1)
    check(self.rate_schedule, 'rate_schedule',
          f'one of {", ".join(SCHEDULES)}', lambda name: name in SCHEDULES)
    check(self.rate_cuts, 'rate_cuts', 'rising shares between 0 and 1',
          lambda cuts: list(cuts) == sorted(set(cuts)) and all(
            0 < cut < 1 for cut in cuts))
    check(self.warmup_steps, 'warmup_steps', 'at least 0', lambda n: n >= 0)
    check(self.clip_norm, 'clip_norm', 'at least 0', lambda c: c >= 0)
    check(self.weight_decay, 'weight_decay', 'at least 0', lambda w: w >= 0)
    check(self.ema, 'ema', 'from 0 to below 1', lambda decay: 0 <= decay < 1)


def make(config: Flags, learning_rate: Any, steps: int
         ) -> optax.GradientTransformation:
  """Build the optimizer; the mean gradient goes in.

  Args:
    config: The flags.
    learning_rate: The largest; a number, or a scalar of a lane.
    steps: Of the whole run.
  """
  factor = rate_factor(config, steps)
  clip = [optax.clip_by_global_norm(config.clip_norm)] * bool(config.clip_norm)
  decay = ([optax.add_decayed_weights(config.weight_decay)]
           * bool(config.weight_decay))
  rule = {'sgd': [], 'momentum': [optax.trace(config.momentum)],
          'adam': [optax.scale_by_adam()], 'adamw': [optax.scale_by_adam()]}
  middle = rule[config.optimizer]
  middle = middle + decay if config.optimizer == 'adamw' else decay + middle
  average = [track_average(config.ema)] * bool(config.ema)
  return optax.chain(
    *clip, *middle,
    optax.scale_by_learning_rate(lambda count: learning_rate * factor(count)),
    *average)


def rate_factor(config: Flags, steps: int) -> optax.Schedule:
  """Build the schedule whose largest value is 1.

  Raises:
    UsageError: Where the warm-up takes the whole run.
  """
  flags.check(config.warmup_steps, 'warmup_steps', f'below the {steps} steps '
              'of the run', lambda n: n < steps)
  rest = steps - config.warmup_steps
  cuts = {round(cut * steps) - config.warmup_steps: 0.1
          for cut in config.rate_cuts}
  after = {
    'constant': lambda: optax.constant_schedule(1.0),
    'cosine': lambda: optax.cosine_decay_schedule(1.0, rest),
    'linear': lambda: optax.linear_schedule(1.0, 0.0, rest),
    'step': lambda: optax.piecewise_constant_schedule(1.0, cuts),
  }[config.rate_schedule]()
  if not config.warmup_steps:
    return after
  warmup = optax.linear_schedule(0.0, 1.0, config.warmup_steps)
  return optax.join_schedules([warmup, after], [config.warmup_steps])


class AverageState(NamedTuple):
  """The average of the params, after each update."""

  params_average: Any


def track_average(decay: float) -> optax.GradientTransformation:
  """Keep an exponential average of the params; stands last in a chain.

  Args:
    decay: Weight of the past. The average begins at the first params.
  """
  def init_fn(params):
    return AverageState(params)

  def update_fn(updates, state, params=None):
    new = optax.apply_updates(params, updates)
    return updates, AverageState(jax.tree.map(
      lambda old, x: decay * old + (1 - decay) * x, state.params_average, new))

  return optax.GradientTransformation(init_fn, update_fn)


def averaged(params: Any, opt_state: Any) -> Any:
  """Return the average of the params where one is kept, else the params.

  It is the `view` of a program.
  """
  found = optax.tree.get(opt_state, 'params_average')
  return params if found is None else found
