"""Langevin dynamics: Gaussian noise on gradients, and how large it is.

Written for the step w ← w − γ u that optax takes, at a temperature T: of the
density exp(−U(w)/T), with U the loss.

  unadjusted, SGLD  u = g + σξ                         σ² = 2T/γ
  underdamped       v ← βv + g + σξ, u = v             σ² = 2T (1 − β)/γ
  preconditioned    u = P g + σ√P ξ, P = 1/(√ν + ε)    σ² = 2T/γ

Welling and Teh write ε/2 for γ, so that the noise of a step has variance ε;
here too it has: γ²σ² = 2γT. Where the noise is added by each of n workers
before the wire, their mean has a variance of σ²/n: take σ√n.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradiv import workers
from gradiv._common import checks, draws, trees

Stddev = float | jax.Array | Callable[[jax.Array], jax.typing.ArrayLike]


def add_langevin_noise(
  stddev: Stddev,
  *,
  key: jax.Array,
  axis_name: workers.AxisName | None = None,
  sharded_over: workers.AxisName | None = None,
  is_sharded: Callable[[tuple], bool] | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Add Gaussian noise to each coordinate: u = g + σξ, ξ ~ N(0, 1).

  What that does to B_S tells `langevin_noise_bound`: noise of each worker's
  own, or each example's, raises it; noise that is common takes it towards one.

  >>> tx = add_langevin_noise(0.1, key=jax.random.key(0))
  >>> noise, _ = tx.update(jnp.zeros(1000), tx.init(jnp.zeros(1000)))
  >>> round(float(noise.std()), 1)
  0.1

  Yin et al., `Gradient Diversity: a Key Ingredient for Scalable Distributed
  Learning <https://proceedings.mlr.press/v84/yin18a.html>`_, 2018, section 4.4.

  Args:
    stddev: σ, or a schedule of it. To sample at a temperature, see
      `langevin_stddev`.
    key: Folded by the step, the leaf, and the worker or the example.
    axis_name: The workers, or examples, each with noise of its own. With the
      extra argument ``update(..., example_index=i)`` the noise is tied to
      example i instead. With neither it is common to all: behind the wire.
    sharded_over: Axes over which leaves are cut up, by tensors or FSDP; each
      shard draws apart.
    is_sharded: Whether the leaf at a path is; by default each is.

  Raises:
    ValueError: On a bad argument; and, while tracing, where jax knows of an
      axis along which updates differ and the noise would not.
  """
  _check_stddev(stddev)
  shards = draws.Shards(sharded_over, is_sharded).check()

  def draw(key, updates, count):
    add = lambda key, g: (g + _noise(key, g, stddev, count)).astype(g.dtype)
    return draws.map_leaves(add, key, updates, shards=shards)

  return draws.transformation(
    'add_langevin_noise', draw, key, axis_name, shards)


class PreconditionLangevinState(NamedTuple):
  """State of `precondition_langevin`.

  Attributes:
    count: Steps so far.
    rng_key: The key.
    nu: Averages of the squared gradient, at least float32.
  """

  count: jax.Array
  rng_key: jax.Array
  nu: optax.Updates


def precondition_langevin(
  stddev: Stddev,
  *,
  key: jax.Array,
  decay: float = 0.99,
  eps: float = 1e-5,
  sharded_over: workers.AxisName | None = None,
  is_sharded: Callable[[tuple], bool] | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Precondition the gradient, and noise with it: u = P g + σ√P ξ.

  P = 1/(√ν + ε), ν ← αν + (1 − α) g²: pSGLD without its term Γ, the
  derivative of P, which vanishes as α goes to one.

  >>> tx = precondition_langevin(0., key=jax.random.key(0), decay=0., eps=1.)
  >>> update, _ = tx.update(jnp.array([3.]), tx.init(jnp.array([0.])))
  >>> update.tolist()
  [0.75]

  Li et al., `Preconditioned Stochastic Gradient Langevin Dynamics for Deep
  Neural Networks <https://arxiv.org/abs/1512.07666>`_, 2016.

  Args:
    stddev: σ, or a schedule of it, as `langevin_stddev` gives it.
    key: Folded by the step and the leaf: this stands behind the wire, and is
      common to the workers.
    decay: α, from 0 to below 1.
    eps: ε, positive.
    sharded_over: As in `add_langevin_noise`.
    is_sharded: Likewise.

  Raises:
    ValueError: On a bad argument.
  """
  _check_stddev(stddev)
  checks.positive('eps', eps)
  checks.fraction('decay', decay)
  decay = float(decay)
  shards = draws.Shards(sharded_over, is_sharded).check()

  def init_fn(params):
    return PreconditionLangevinState(
      *draws.init(key), trees.zeros_wide(params))

  def update_fn(updates, state, params=None, **extra_args):
    del params, extra_args
    trees.check_floating(updates, 'update')
    draws.check_not_shared(updates, (), shards, 'behind the wire')
    nu = jax.tree.map(
      lambda nu, g: decay * nu + (1 - decay) * g.astype(nu.dtype)**2,
      state.nu, updates)
    drawn = draws.DrawState(state.count, state.rng_key)

    def one(key, g, nu):
      scale = 1 / (jnp.sqrt(nu) + eps)
      noise = _noise(key, g, stddev, state.count)
      return (scale * g + jnp.sqrt(scale) * noise).astype(g.dtype)

    updates = draws.map_leaves(
      one, draws.key_of(drawn, 'precondition_langevin'), updates, nu,
      shards=shards)
    return updates, PreconditionLangevinState(*draws.next_step(drawn), nu)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def langevin_stddev(
  learning_rate: float | Callable[[jax.Array], jax.typing.ArrayLike],
  temperature: float = 1.0,
  *,
  momentum: float = 0.0,
  num_workers: int = 1,
) -> Stddev:
  """Compute the σ at which SGD on a potential U samples exp(−U/T).

  σ = √(2T (1 − β) n/γ), for steps γ that are small: the table of conventions
  is at the head of this module. With the gradient of the mean of N losses,
  whose sum is U, the temperature in these units is T/N.

  >>> langevin_stddev(0.5)
  2.0
  >>> float(langevin_stddev(lambda count: 0.5 / (count + 1))(3))
  4.0

  Welling and Teh, `Bayesian Learning via Stochastic Gradient Langevin Dynamics
  <https://www.stats.ox.ac.uk/~teh/research/compstats/WelTeh2011a.pdf>`_, 2011.

  Args:
    learning_rate: γ, or a schedule of it: σ is then one, too.
    temperature: T.
    momentum: β of `optax.trace` behind the noise: underdamped.
    num_workers: n, where each adds noise of its own before their mean.

  Raises:
    ValueError: On a bad argument.
  """
  checks.within('temperature', temperature, 0, float('inf'))
  checks.count('num_workers', num_workers, 1)
  checks.fraction('momentum', momentum)
  variance = 2 * temperature * (1 - momentum) * num_workers
  if callable(learning_rate):
    return lambda count: jnp.sqrt(variance / learning_rate(count))
  checks.positive('learning_rate', learning_rate)
  return (variance / learning_rate) ** 0.5


def _check_stddev(stddev):
  if not callable(stddev):
    checks.within('stddev', stddev, 0, float('inf'))


def _noise(key, g, stddev, count):
  # Drawn in at least float32, and rounded once, with the sum.
  wide = trees.wide_dtype(g.dtype)
  sigma = stddev(count) if callable(stddev) else stddev
  return jnp.asarray(sigma, wide) * jax.random.normal(key, g.shape, wide)
