"""Local SGD, SlowMo and DiLoCo: special cases of `mix_by_outer_step`."""

from collections.abc import Callable

import optax

from gradiv import workers
from gradiv._common import checks
from gradiv.decentralized import outer_steps


def local_sgd(
  period: int, axis_name: workers.AxisName
) -> optax.GradientTransformationExtraArgs:
  """Average the parameters of all workers every `period` steps.

  Use it as the last link of a chain when an all-reduce per step is too slow.
  Where the workers' data differ, longer periods end farther from the optimum.
  All workers must start from the same parameters. To average with neighbors
  only, pass to `mix_by_gossip` a sequence of identities and one mixing matrix.

  >>> import gradiv
  >>> import jax.numpy as jnp
  >>> tx = local_sgd(2, 'workers')
  >>> def run(u):
  ...   x, path = jnp.zeros(()), []
  ...   state = tx.init(x)
  ...   for _ in range(4):
  ...     updates, state = tx.update(u, state, x)
  ...     x = x + updates
  ...     path.append(x)
  ...   return jnp.stack(path)
  >>> gradiv.map_workers(run, 'workers')(jnp.array([1., 3.])).tolist()
  [[1.0, 4.0, 5.0, 8.0], [3.0, 4.0, 7.0, 8.0]]

  The workers step by 1 and 3, and average at every second step: 4, then 8.

  Stich, `Local SGD Converges Fast and Communicates Little
  <https://arxiv.org/abs/1805.09767>`_, 2018.

  Args:
    period: Number of steps from one average to the next.
    axis_name: The axis, or axes, of the workers.
  """
  return outer_steps.mix_by_outer_step(optax.sgd(1.0), period, axis_name)


def mix_by_slow_momentum(
  period: int,
  axis_name: workers.AxisName,
  *,
  momentum: float,
  learning_rate: optax.ScalarOrSchedule = 1.0,
) -> optax.GradientTransformationExtraArgs:
  """Add momentum from one average to the next: SlowMo.

  Use it in place of `local_sgd`, with the same communication, when that
  converges slowly. With Δ, how far the workers' mean has moved away from the
  common parameters θ,

    u ← β u + Δ,  θ ← θ − a u

  Here u is in units of parameters. In the paper it is in units of gradients,
  which differs if the inner learning rate changes.

  >>> import gradiv
  >>> import jax.numpy as jnp
  >>> tx = mix_by_slow_momentum(1, 'workers', momentum=0.5)
  >>> def run(u):
  ...   updates, state = tx.update(u, tx.init(0 * u), 0 * u)
  ...   return updates, tx.update(u, state, updates)[0]
  >>> first, second = gradiv.map_workers(run, 'workers')(jnp.array([1., 3.]))
  >>> first.tolist(), second.tolist()
  ([2.0, 2.0], [3.0, 3.0])

  The mean step is 2; the second adds half of the first.

  Wang et al., `SlowMo: Improving Communication-Efficient Distributed SGD with
  Slow Momentum <https://arxiv.org/abs/1910.00643>`_, 2019.

  Args:
    period: Number of steps from one average to the next.
    axis_name: The axis, or axes, of the workers.
    momentum: β, from 0 to below 1.
    learning_rate: a, or a schedule of it by the number of averages so far.
  """
  return outer_steps.mix_by_outer_step(
    _outer_sgd(learning_rate, momentum, nesterov=False), period, axis_name)


def diloco(
  period: int,
  axis_name: workers.AxisName,
  *,
  learning_rate: optax.ScalarOrSchedule = 0.7,
  momentum: float = 0.9,
  num_fragments: int = 1,
  fragment_of: Callable[[tuple], int] | None = None,
  delay: int = 0,
  blend: float = 0.0,
) -> optax.GradientTransformationExtraArgs:
  """Take outer steps with Nesterov momentum: DiLoCo, or Streaming DiLoCo.

  Use it behind `optax.adamw` to train language models on machines with slow
  links, with periods of tens to hundreds of steps. The formula is that of
  `mix_by_outer_step`.

  >>> import gradiv
  >>> import jax.numpy as jnp
  >>> streaming = optax.chain(optax.adamw(4e-4), diloco(
  ...     48, 'workers', num_fragments=4, delay=2, blend=0.5))
  >>> tx = diloco(1, 'workers', learning_rate=0.5, momentum=0.0)
  >>> gradiv.map_workers(lambda u: tx.update(u, tx.init(0 * u), 0 * u)[0],
  ...                    'workers')(jnp.array([1., 3.])).tolist()
  [1.0, 1.0]

  Without momentum, an outer step is the learning rate, 0.5, times the mean
  step, 2.

  Douillard et al., `DiLoCo <https://arxiv.org/abs/2311.08105>`_, 2023, and
  `Streaming DiLoCo <https://arxiv.org/abs/2501.18512>`_, 2025.

  Args:
    period: H, number of steps between two outer steps of a fragment.
    axis_name: The axis, or axes, of the workers.
    learning_rate: Of the outer steps, or a schedule of it by their number.
    momentum: Of the outer steps, from 0 to below 1.
    num_fragments: Number of fragments; see `mix_by_outer_step`, also for the
      arguments below.
    fragment_of: Function from the path of a leaf to its fragment.
    delay: Number of steps between a mean pseudo-gradient and its use.
    blend: Fraction of its own parameters that a worker keeps.
  """
  return outer_steps.mix_by_outer_step(
    _outer_sgd(learning_rate, momentum, nesterov=True), period, axis_name,
    num_fragments=num_fragments, fragment_of=fragment_of, delay=delay,
    blend=blend)


def _outer_sgd(learning_rate, momentum, nesterov):
  checks.fraction('momentum', momentum, one=True)
  if not callable(learning_rate):
    checks.positive('learning_rate', learning_rate, one=True)
  return optax.sgd(learning_rate, momentum=momentum, nesterov=nesterov)
