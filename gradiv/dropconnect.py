"""DropConnect, on gradients and on weights: two different things of one name.

Yin et al. mask the *gradients*: coordinates of an update are dropped, which
raises gradient diversity. Wan et al. mask the *weights* in the forward pass:
another network at each draw, whose gradient is that of another loss.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradiv import axes, checks


class DropUpdatesState(NamedTuple):
  """State of `drop_updates`.

  Attributes:
    count: Steps so far.
    rng_key: The key.
  """

  count: jax.Array
  rng_key: jax.Array


def drop_updates(
  rate: float,
  *,
  key: jax.Array,
  axis_name: axes.AxisName | None = None,
  rescale: bool = False,
) -> optax.GradientTransformationExtraArgs:
  """Set each coordinate to zero with probability `rate`.

  u = D g, D diagonal with independent entries: 0 with probability p, else 1,
  or 1/(1 − p) with `rescale`. Before the wire, with masks of each worker's own,
  1/B_S becomes (1 − p)/B_S + p/n over n gradients. Without `rescale`, as in the
  paper, the mean step is (1 − p) times as long.

  >>> tx = drop_updates(0.5, key=jax.random.key(0))
  >>> update, _ = tx.update(jnp.ones(8), tx.init(jnp.ones(8)))
  >>> sorted(set(update.tolist()))
  [0.0, 1.0]

  Yin et al., `Gradient Diversity: a Key Ingredient for Scalable Distributed
  Learning <https://proceedings.mlr.press/v84/yin18a.html>`_, 2018, section 4.4.

  Args:
    rate: p, from 0 to below 1.
    key: Folded by the step, the worker and the leaf.
    axis_name: The workers, each with a mask of its own; None for one mask
      common to all, behind the wire.
    rescale: Divide by 1 − p, so that the mean stays.

  Raises:
    ValueError: On a bad argument.
  """
  _check_rate(rate)
  if axis_name is not None:
    axes.names_of(axis_name)

  def init_fn(params):
    del params
    return DropUpdatesState(jnp.zeros((), jnp.int32), key)

  def update_fn(updates, state, params=None, **extra_args):
    del params, extra_args
    step_key = jax.random.fold_in(state.rng_key, state.count)
    if axis_name is not None:
      step_key = axes.worker_key(step_key, axis_name)
    dropped = _drop(step_key, updates, rate, rescale, lambda path: True)
    return dropped, DropUpdatesState(
      optax.safe_increment(state.count), state.rng_key)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def drop_connect(
  key: jax.Array,
  params: Any,
  rate: float,
  *,
  mask: Callable[[tuple], bool] | None = None,
) -> Any:
  """Set each weight to zero with probability `rate`, for one forward pass.

  m ⊙ w / (1 − p): the mean of the weights stays, that of the loss does not.
  The gradient with respect to `params` is then of that other loss.

  >>> dropped = drop_connect(jax.random.key(0), jnp.ones(8), 0.5)
  >>> sorted(set(dropped.tolist()))
  [0.0, 2.0]

  Wan et al., `Regularization of Neural Networks using DropConnect
  <https://proceedings.mlr.press/v28/wan13.html>`_, 2013.

  Args:
    key: Folded by the leaf; one for each example, or worker, is the caller's
      to make, see `worker_key`.
    params: A tree of floating leaves.
    rate: p, from 0 to below 1.
    mask: Whether the leaf at a path takes part; by default each does.

  Raises:
    ValueError: On a bad rate.
  """
  _check_rate(rate)
  return _drop(key, params, rate, True, mask or (lambda path: True))


def _drop(key, tree, rate, rescale, takes_part):
  scale = 1 / (1 - rate) if rescale else 1.

  def drop(i, path, x):
    if not takes_part(path):
      return x
    keep = jax.random.bernoulli(jax.random.fold_in(key, i), 1 - rate, x.shape)
    return jnp.where(keep, x * jnp.asarray(scale, x.dtype), 0).astype(x.dtype)

  paths, treedef = jax.tree_util.tree_flatten_with_path(tree)
  return treedef.unflatten(
    drop(i, path, x) for i, (path, x) in enumerate(paths))


def _check_rate(rate):
  checks.within('rate', rate, 0, 1)
  if rate == 1:
    raise ValueError(f'rate={rate!r}: must be below 1')
