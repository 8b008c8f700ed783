"""DropConnect on gradients, and on weights: two methods with one name.

Yin et al. mask the *gradients*: they drop coordinates of an update, which
raises gradient diversity. Wan et al. mask the *weights* in the forward pass,
so that each draw is a different network with a different loss.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradiv import workers
from gradiv._common import checks, draws, layout as layouts, trees


def drop_updates(
  rate: optax.ScalarOrSchedule,
  *,
  key: jax.Array,
  axis_name: workers.AxisName | None = None,
  rescale: bool = False,
  sharded_over: workers.AxisName | None = None,
  is_sharded: Callable[[tuple], bool] | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Set each coordinate of the updates to zero with probability `rate`.

  Use it in front of `aggregate_by_*` to raise gradient diversity;
  `drop_updates_batch_size_bound` predicts by how much. Each coordinate becomes
  0 with probability p, and g otherwise, or g/(1 − p) with `rescale`. Without
  `rescale`, as in the paper, the mean step shrinks by a factor of 1 − p.

  Args:
    rate: Probability p of dropping a coordinate, at least 0 and below 1, or a
      schedule of it.
    key: Random key. It is folded with the step, the leaf, and the worker or
      the example.
    axis_name: Axis, or axes, of the workers (or examples), each of which draws
      its own mask. If you call ``update(..., example_index=i)`` instead, the
      mask belongs to example i. With neither, all workers share one mask.
    rescale: Whether to divide by 1 − p, which keeps the mean. False by
      default.
    sharded_over: Axis, or axes, over which leaves are sharded by tensor
      parallelism or FSDP; every shard draws its own mask.
    is_sharded: Function from a leaf's path to whether that leaf is sharded; by
      default all are.

  Returns:
    A transformation with a `DrawState`. Its update raises a ValueError,
    while tracing, if updates differ along an axis along which the mask would
    be shared.

  Yin et al., `Gradient Diversity: a Key Ingredient for Scalable Distributed
  Learning <https://proceedings.mlr.press/v84/yin18a.html>`_, 2018, section 4.4.

  >>> tx = drop_updates(0.5, key=jax.random.key(0))
  >>> update, _ = tx.update(jnp.ones(8), tx.init(jnp.ones(8)))
  >>> sorted(set(update.tolist()))
  [0.0, 1.0]

  About half of the ones are dropped.
  """
  if not callable(rate):
    checks.fraction('rate', rate, one=True)
  layout = layouts.Layout(sharded_over=sharded_over, is_sharded=is_sharded)

  def draw(key, updates, count):
    now = rate(count) if callable(rate) else rate
    return draws.map_leaves(
      lambda key, g: _drop(key, g, now, rescale), key, updates, layout=layout)

  return draws.transformation('drop_updates', draw, key, axis_name, layout)


def drop_connect(
  key: jax.Array,
  params: Any,
  rate: float | jax.Array,
  *,
  mask: Callable[[tuple], bool] | None = None,
) -> Any:
  """Set each weight to zero with probability `rate`, for one forward pass.

  Use it as a regularizer inside the loss. The other weights are divided by
  1 − p, so that the mean weight does not change; the mean loss does. The
  gradient with respect to `params` is that of the masked network.

  Args:
    key: Random key, folded with the leaf. All workers and examples that pass
      the same key share a mask; see `worker_key` for one key per worker.
    params: Tree of floating leaves.
    rate: Probability p of dropping a weight, at least 0 and below 1.
    mask: Function from a leaf's path to whether its weights may be dropped; by
      default all may.

  Returns:
    The masked parameters.

  Raises:
    ValueError: If `rate` does not lie in [0, 1), or `key` is no random key.

  Wan et al., `Regularization of Neural Networks using DropConnect
  <https://proceedings.mlr.press/v28/wan13.html>`_, 2013.

  >>> dropped = drop_connect(jax.random.key(0), jnp.ones(8), 0.5)
  >>> sorted(set(dropped.tolist()))
  [0.0, 2.0]

  The weights that stay are doubled.
  """
  checks.fraction('rate', rate, one=True)
  checks.key('key', key)
  takes_part = jax.tree_util.tree_map_with_path(
    lambda path, x: mask is None or mask(path), params)
  return draws.map_leaves(
    lambda key, w, drops: _drop(key, w, rate, True) if drops else w,
    key, params, takes_part)


def _drop(key, x, rate, rescale):
  keep = jax.random.bernoulli(key, 1 - rate, x.shape)
  scale = 1 / (1 - rate) if rescale else 1.
  # A product keeps NaN and Inf visible, and rounds only once.
  mask = jnp.where(keep, jnp.asarray(scale, trees.wide_dtype(x.dtype)), 0)
  return (x * mask).astype(x.dtype)
