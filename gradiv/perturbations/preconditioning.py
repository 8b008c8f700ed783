"""Preconditioned Langevin dynamics: pSGLD."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradiv import workers
from gradiv._common import checks, draws, layout as layouts, stateful, trees
from gradiv.perturbations import langevin


class PreconditionLangevinState(NamedTuple):
  """State of `precondition_langevin`.

  Attributes:
    count: Number of steps taken.
    rng_key: Random key.
    nu: Moving averages of the squared gradient, in at least float32.
  """

  count: jax.Array
  rng_key: jax.Array
  nu: optax.Updates


def precondition_langevin(
  stddev: optax.ScalarOrSchedule,
  *,
  key: jax.Array,
  decay: float | jax.Array = 0.99,
  eps: float | jax.Array = 1e-5,
  sharded_over: workers.AxisName | None = None,
  is_sharded: Callable[[tuple], bool] | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Precondition the gradient, and add noise to match: u = P g + σ√P ξ.

  Use it after the aggregation, in place of `add_langevin_noise`, to sample
  where coordinates have very different scales. P = 1/(√ν + ε) as in RMSProp,
  with ν ← αν + (1 − α) g². The term Γ of the paper, the derivative of P, is
  left out; it vanishes as α goes to 1.

  Args:
    stddev: Standard deviation σ, or a schedule of it; see `langevin_stddev`.
    key: Random key, folded with the step and the leaf. The noise is common to
      all workers.
    decay: Decay rate α of ν, at least 0 and below 1; 0.99 by default.
    eps: Positive constant ε; 1e-5 by default.
    sharded_over: Axis, or axes, over which leaves are sharded by tensor
      parallelism or FSDP; every shard draws its own noise.
    is_sharded: Function from a leaf's path to whether that leaf is sharded; by
      default all are.

  Returns:
    A transformation with a `PreconditionLangevinState`. Its update raises a
    ValueError, while tracing, if updates differ across workers.

  Li et al., `Preconditioned Stochastic Gradient Langevin Dynamics for Deep
  Neural Networks <https://arxiv.org/abs/1512.07666>`_, 2016.

  >>> tx = precondition_langevin(0., key=jax.random.key(0), decay=0., eps=1.)
  >>> update, _ = tx.update(jnp.array([3.]), tx.init(jnp.array([0.])))
  >>> update.tolist()
  [0.75]

  Without noise and memory, that is g/(|g| + ε) = 3/4.
  """
  langevin.check_stddev(stddev)
  checks.key('key', key)
  checks.positive('eps', eps, one=True)
  checks.fraction('decay', decay, one=True)
  layout = layouts.Layout(sharded_over=sharded_over, is_sharded=is_sharded)

  def init_fn(params):
    return PreconditionLangevinState(
      *draws.init(key), trees.zeros_wide(params))

  def update_fn(updates, state, params=None, **extra_args):
    del params, extra_args
    trees.check_floating(updates, 'update')
    draws.check_not_shared(updates, (), layout, 'after the aggregation')
    drawn = draws.DrawState(state.count, state.rng_key)
    nu = jax.tree.map(
      lambda nu, g: _decayed(nu, g, decay), state.nu, updates)

    def precondition(key, g, nu):
      scale = 1 / (jnp.sqrt(nu) + jnp.asarray(eps, nu.dtype))
      noise = langevin.draw_noise(key, g, stddev, state.count)
      return (scale * g + jnp.sqrt(scale) * noise).astype(g.dtype)

    updates = draws.map_leaves(
      precondition, draws.key_of(drawn, 'precondition_langevin'), updates, nu,
      layout=layout)
    return updates, PreconditionLangevinState(*draws.next_step(drawn), nu)

  return stateful.transformation(
    init_fn, update_fn, PreconditionLangevinState, like_params=('nu',))


def _decayed(nu, g, decay):
  # Cast last: 1 − α is rounded once, and the dtype of ν never changes.
  keep, take = (jnp.asarray(x, nu.dtype) for x in (decay, 1 - decay))
  return keep * nu + take * g.astype(nu.dtype)**2
