"""DropConnect, on gradients and on weights: two different things of one name.

Yin et al. mask the *gradients*: coordinates of an update are dropped, which
raises gradient diversity. Wan et al. mask the *weights* in the forward pass:
another network at each draw, whose gradient is that of another loss.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradiv import workers
from gradiv._common import checks, draws, trees


def drop_updates(
  rate: float | jax.Array,
  *,
  key: jax.Array,
  axis_name: workers.AxisName | None = None,
  rescale: bool = False,
  sharded_over: workers.AxisName | None = None,
  is_sharded: Callable[[tuple], bool] | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Set each coordinate to zero with probability `rate`.

  u = D g, D diagonal with independent entries: 0 with probability p, else 1,
  or 1/(1 − p) with `rescale`. What that does to B_S tells
  `drop_updates_bound`. Without `rescale`, as in the paper, the mean step is
  (1 − p) times as long.

  >>> tx = drop_updates(0.5, key=jax.random.key(0))
  >>> update, _ = tx.update(jnp.ones(8), tx.init(jnp.ones(8)))
  >>> sorted(set(update.tolist()))
  [0.0, 1.0]

  Yin et al., `Gradient Diversity: a Key Ingredient for Scalable Distributed
  Learning <https://proceedings.mlr.press/v84/yin18a.html>`_, 2018, section 4.4.

  Args:
    rate: p, from 0 to below 1.
    key: Folded by the step, the leaf, and the worker or the example.
    axis_name: The workers, or examples, each with a mask of its own. With the
      extra argument ``update(..., example_index=i)`` the mask is tied to
      example i instead. With neither, it is common to all.
    rescale: Divide by 1 − p, so that the mean stays, up to the rounding of the
      update's dtype.
    sharded_over: Axes over which leaves are cut up, by tensors or FSDP; each
      shard draws apart.
    is_sharded: Whether the leaf at a path is; by default each is.

  Raises:
    ValueError: On a bad argument; and, while tracing, where jax knows of an
      axis along which updates differ and the mask would not.
  """
  checks.fraction('rate', rate)
  shards = draws.Shards(sharded_over, is_sharded).check()
  return draws.transformation(
    'drop_updates',
    lambda key, updates, count: draws.map_leaves(
      lambda key, g: _drop(key, g, rate, rescale), key, updates,
      shards=shards),
    key, axis_name, shards)


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
  checks.fraction('rate', rate)
  takes_part = jax.tree_util.tree_map_with_path(
    lambda path, x: mask is None or bool(mask(path)), params)
  return draws.map_leaves(
    lambda key, w, drops: _drop(key, w, rate, True) if drops else w,
    key, params, takes_part)


def _drop(key, x, rate, rescale):
  keep = jax.random.bernoulli(key, 1 - rate, x.shape)
  scale = 1 / (1 - rate) if rescale else 1.
  # A product, so that what is not finite stays so; rounded once.
  mask = jnp.where(keep, jnp.asarray(scale, trees.widen(x).dtype), 0)
  return (x * mask).astype(x.dtype)
