"""Langevin dynamics: Gaussian noise on gradients, and how large to make it.

Conventions, for optax's step w ← w − γu at temperature T. It samples from the
density exp(−U(w)/T), where U is the loss:

  unadjusted (SGLD)  u = g + σξ                         σ² = 2T/γ
  underdamped        v ← βv + g + σξ, u = v             σ² = 2T (1 − β)/γ
  preconditioned     u = P g + σ√P ξ, P = 1/(√ν + ε)    σ² = 2T/γ

Welling and Teh write ε/2 for γ, and give the noise of one step the variance ε;
so it has here, as γ²σ² = 2γT. If each of n workers adds noise before the
aggregation, the mean has variance σ²/n: use σ√n.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradiv import workers
from gradiv._common import checks, draws, layout as layouts, trees


def add_langevin_noise(
  stddev: optax.ScalarOrSchedule,
  *,
  key: jax.Array,
  axis_name: workers.AxisName | None = None,
  sharded_over: workers.AxisName | None = None,
  is_sharded: Callable[[tuple], bool] | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Add Gaussian noise to each coordinate: u = g + σξ, ξ ~ N(0, 1).

  In front of `aggregate_by_*`, with `axis_name`, the noise differs across
  workers and raises gradient diversity; `langevin_noise_batch_size_bound`
  predicts by how much. After the aggregation, the noise is common to all
  workers, and turns SGD into a sampler (see `langevin_stddev`); it takes B_S
  toward 1.

  Args:
    stddev: Standard deviation σ, or a schedule of it.
    key: Random key. It is folded with the step, the leaf, and the worker or
      the example.
    axis_name: Axis, or axes, of the workers (or examples), each of which draws
      its own noise. If you call ``update(..., example_index=i)`` instead, the
      noise belongs to example i. With neither, all workers share it.
    sharded_over: Axis, or axes, over which leaves are sharded by tensor
      parallelism or FSDP; every shard draws its own noise.
    is_sharded: Function from a leaf's path to whether that leaf is sharded; by
      default all are.

  Returns:
    A transformation with a `DrawState`. Its update raises a ValueError,
    while tracing, if updates differ along an axis along which the noise would
    be shared.

  Yin et al., `Gradient Diversity: a Key Ingredient for Scalable Distributed
  Learning <https://proceedings.mlr.press/v84/yin18a.html>`_, 2018, section 4.4.

  >>> tx = add_langevin_noise(0.1, key=jax.random.key(0))
  >>> noise, _ = tx.update(jnp.zeros(1000), tx.init(jnp.zeros(1000)))
  >>> round(float(noise.std()), 1)
  0.1

  The update was zero, so only the noise is left.
  """
  check_stddev(stddev)
  layout = layouts.Layout(sharded_over=sharded_over, is_sharded=is_sharded)

  def draw(key, updates, count):
    add = lambda key, g: (
      g + draw_noise(key, g, stddev, count)).astype(g.dtype)
    return draws.map_leaves(add, key, updates, layout=layout)

  return draws.transformation(
    'add_langevin_noise', draw, key, axis_name, layout)


def langevin_stddev(
  learning_rate: optax.ScalarOrSchedule,
  temperature: float | jax.Array = 1.0,
  *,
  momentum: float | jax.Array = 0.0,
  num_workers: int = 1,
) -> optax.ScalarOrSchedule:
  """Compute the σ for which noisy SGD on U samples from exp(−U/T).

  Use it as the `stddev` of `add_langevin_noise` or `precondition_langevin`:
  σ = √(2T (1 − β) n/γ), which is exact as γ goes to 0. If the loss is the mean
  over N examples, and U the sum, then the temperature is T/N.

  Args:
    learning_rate: Learning rate γ, or a schedule of it.
    temperature: Temperature T; 1 by default.
    momentum: Decay β of an `optax.trace` after the noise (underdamped
      dynamics); 0 by default.
    num_workers: Number n of workers that add noise of their own before their
      mean is taken; 1 by default.

  Returns:
    The standard deviation, or a schedule of it if the learning rate is one.

  Raises:
    ValueError: If a number is out of its range: γ > 0, T ≥ 0, 0 ≤ β < 1, n ≥ 1.

  Welling and Teh, `Bayesian Learning via Stochastic Gradient Langevin Dynamics
  <https://www.stats.ox.ac.uk/~teh/research/compstats/WelTeh2011a.pdf>`_, 2011.

  >>> langevin_stddev(0.5)
  2.0
  >>> float(langevin_stddev(lambda count: 0.5 / (count + 1))(3))
  4.0

  A quarter of the learning rate needs twice the noise.
  """
  checks.within('temperature', temperature, 0, float('inf'))
  checks.count('num_workers', num_workers, 1)
  checks.fraction('momentum', momentum)
  variance = 2 * temperature * (1 - momentum) * num_workers
  if callable(learning_rate):
    return lambda count: jnp.sqrt(variance / learning_rate(count))
  checks.positive('learning_rate', learning_rate)
  return (variance / learning_rate) ** 0.5


def check_stddev(stddev: Any) -> None:
  """Raise ValueError unless `stddev` is a schedule, or at least 0."""
  if not callable(stddev):
    checks.within('stddev', stddev, 0, float('inf'), one=True)


def draw_noise(
  key: jax.Array,
  like: jax.Array,
  stddev: optax.ScalarOrSchedule,
  count: jax.Array,
) -> jax.Array:
  """Draw noise of the shape of `like`, in at least float32.

  The caller rounds only once, after adding it to the gradient.
  """
  dtype = trees.wide_dtype(like.dtype)
  sigma = stddev(count) if callable(stddev) else stddev
  return jnp.asarray(sigma, dtype) * jax.random.normal(key, like.shape, dtype)
