"""Langevin dynamics: Gaussian noise on gradients, and how large it is."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradiv import axes, checks

Stddev = float | jax.Array | Callable[[jax.Array], jax.typing.ArrayLike]


class AddLangevinNoiseState(NamedTuple):
  """State of `add_langevin_noise`.

  Attributes:
    count: Steps so far.
    rng_key: The key.
  """

  count: jax.Array
  rng_key: jax.Array


def add_langevin_noise(
  stddev: Stddev,
  *,
  key: jax.Array,
  axis_name: axes.AxisName | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Add Gaussian noise to each coordinate: u = g + ξ, ξ ~ N(0, σ²).

  Before the wire, with noise of each worker's own, B_S over n gradients
  becomes (M² + dσ²)/(G + dσ²/n), with M² the mean of ‖g_i‖², G = ‖ḡ‖² and d
  coordinates. Noise that is common to the workers takes it towards one.

  >>> tx = add_langevin_noise(0.1, key=jax.random.key(0))
  >>> noise, _ = tx.update(jnp.zeros(1000), tx.init(jnp.zeros(1000)))
  >>> round(float(noise.std()), 1)
  0.1

  Yin et al., `Gradient Diversity: a Key Ingredient for Scalable Distributed
  Learning <https://proceedings.mlr.press/v84/yin18a.html>`_, 2018, section 4.4.

  Args:
    stddev: σ, or a schedule of it. To sample at a temperature, behind the
      wire, see `langevin_stddev`.
    key: Folded by the step, the worker and the leaf.
    axis_name: The workers, each with noise of its own; None for noise that is
      common to all, behind the wire.

  Raises:
    ValueError: On a bad argument.
  """
  if not callable(stddev) and not isinstance(stddev, jax.Array):
    checks.within('stddev', stddev, 0, float('inf'))
  if axis_name is not None:
    axes.names_of(axis_name)

  def init_fn(params):
    del params
    return AddLangevinNoiseState(jnp.zeros((), jnp.int32), key)

  def update_fn(updates, state, params=None, **extra_args):
    del params, extra_args
    sigma = stddev(state.count) if callable(stddev) else stddev
    step_key = jax.random.fold_in(state.rng_key, state.count)
    if axis_name is not None:
      step_key = axes.worker_key(step_key, axis_name)

    def add(i, g):
      # Drawn in at least float32, and rounded once.
      wide = jnp.promote_types(g.dtype, jnp.float32)
      noise = jax.random.normal(jax.random.fold_in(step_key, i), g.shape, wide)
      return (g + jnp.asarray(sigma, wide) * noise).astype(g.dtype)

    leaves, treedef = jax.tree.flatten(updates)
    updates = treedef.unflatten(add(i, g) for i, g in enumerate(leaves))
    return updates, AddLangevinNoiseState(
      optax.safe_increment(state.count), state.rng_key)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def langevin_stddev(
  learning_rate: float | Callable[[jax.Array], jax.typing.ArrayLike],
  temperature: float = 1.0,
) -> Stddev:
  """Compute the σ at which SGD on a potential U samples exp(−U/T).

  σ = √(2T/γ): the step −γ (∇U + ξ) then adds N(0, 2γT), as the unadjusted
  Langevin algorithm does. With the gradient of the mean of n losses, whose sum
  is U, the temperature in these units is T/n.

  >>> langevin_stddev(0.5)
  2.0
  >>> float(langevin_stddev(lambda count: 0.5 / (count + 1))(3))
  4.0

  Welling and Teh, `Bayesian Learning via Stochastic Gradient Langevin Dynamics
  <https://www.stats.ox.ac.uk/~teh/research/compstats/WelTeh2011a.pdf>`_, 2011,
  write ε/2 for γ.

  Args:
    learning_rate: γ, or a schedule of it: σ is then one, too.
    temperature: T.

  Raises:
    ValueError: On a bad argument.
  """
  checks.within('temperature', temperature, 0, float('inf'))
  if callable(learning_rate):
    return lambda count: jnp.sqrt(2 * temperature / learning_rate(count))
  checks.positive('learning_rate', learning_rate)
  return (2 * temperature / learning_rate) ** 0.5
