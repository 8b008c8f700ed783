"""Rules that ask at each coordinate for the signs of the workers."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradiv import workers
from gradiv._common import checks
from gradiv.aggregation import _coordinatewise


def aggregate_by_sign_agreement(
  threshold: float,
  axis_name: workers.AxisName,
  *,
  normalize: bool = False,
  **layout: Any,
) -> optax.GradientTransformationExtraArgs:
  """Average the coordinates on whose sign the workers agree (AND-mask).

  u = m ⊙ ḡ with m = 1 where |(1/n) Σ sign(g_i)| ≥ τ, else 0.

  >>> tx = aggregate_by_sign_agreement(1.0, 'workers')
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> jax.vmap(step, axis_name='workers', out_axes=None)(
  ...     jnp.array([[1., 5.], [3., -1.]])).tolist()
  [2.0, 0.0]

  *Parascandolo et al., `Learning explanations that are hard to vary
  <https://arxiv.org/abs/2009.00329>`_, 2020*.

  Args:
    threshold: τ, from 0 to 1.
    axis_name: The axis, or axes, over which the workers lie.
    normalize: Divide each leaf by the share of its coordinates that pass.
    **layout: `mean_over`, `sharded_over`, `is_sharded` of `gradiv.Wire`.

  Raises:
    ValueError: On a bad argument.
  """
  checks.within('threshold', threshold, 0, 1)

  def mask(rows, present, key):
    del key
    present = present[:, None]
    sign = _coordinatewise.mean_of(jnp.sign(rows), present)
    agree = jnp.abs(sign) >= threshold
    return _coordinatewise.mean_of(rows, present) * agree, agree

  return _coordinatewise.by_coordinate(mask, axis_name, layout, normalize=normalize)


def aggregate_by_smooth_sign_agreement(
  threshold: float,
  axis_name: workers.AxisName,
  *,
  sharpness: float = 1.0,
  normalize: bool = True,
  **layout: Any,
) -> optax.GradientTransformationExtraArgs:
  """Average the coordinates by how far their signs agree (SAND-mask).

  u = m ⊙ ḡ with m = max(0, tanh(k (|(1/n) Σ sign(g_i)| − τ)/v)), v the
  variance of the workers at the coordinate with divisor n − 1.

  *Shahtalebi et al., `SAND-mask: An Enhanced Gradient Masking Strategy for the
  Discovery of Invariances in Domain Generalization
  <https://arxiv.org/abs/2106.02266>`_, 2021*; as in DomainBed, each leaf is
  divided by the mean of its mask.

  >>> tx = aggregate_by_smooth_sign_agreement(0.5, 'workers')
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> jax.vmap(step, axis_name='workers', out_axes=None)(
  ...     jnp.array([[1., 5.], [1., -1.]])).round(3).tolist()
  [2.0, 0.0]

  Args:
    threshold: τ, from 0 to 1.
    axis_name: The axis, or axes, over which the workers lie.
    sharpness: k.
    normalize: Divide each leaf by the mean of its mask.
    **layout: `mean_over`, `sharded_over`, `is_sharded` of `gradiv.Wire`.

  Raises:
    ValueError: On a bad argument.
  """
  checks.within('threshold', threshold, 0, 1)
  checks.positive('sharpness', sharpness)

  def mask(rows, present, key):
    del key
    present = present[:, None]
    mean = _coordinatewise.mean_of(rows, present)
    sign = _coordinatewise.mean_of(jnp.sign(rows), present)
    beyond = jnp.abs(sign) - threshold
    square = jnp.where(present, (rows - mean[None])**2, 0).sum(0)
    variance = square / jnp.maximum(present.sum() - 1, 1)
    # Without any variance the sign alone decides.
    ratio = jnp.where(variance > 0, beyond / variance,
                      jnp.where(beyond > 0, jnp.inf, 0))
    weight = jnp.maximum(jnp.tanh(sharpness * ratio), 0)
    return weight * mean, weight

  return _coordinatewise.by_coordinate(mask, axis_name, layout, normalize=normalize)


def aggregate_by_sign_majority(
  axis_name: workers.AxisName, **layout: Any
) -> optax.GradientTransformationExtraArgs:
  """Vote on the sign of each coordinate: sign(Σ sign(g_i)).

  >>> tx = aggregate_by_sign_majority('workers')
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> jax.vmap(step, axis_name='workers', out_axes=None)(
  ...     jnp.array([[7., 1.], [-1., 0.], [-2., 0.]])).tolist()
  [-1.0, 1.0]

  *Bernstein et al., `signSGD with Majority Vote is Communication Efficient And
  Fault Tolerant <https://arxiv.org/abs/1810.05291>`_, 2018*. Here the
  gradients themselves travel, not their signs.

  Args:
    axis_name: The axis, or axes, over which the workers lie.
    **layout: `mean_over`, `sharded_over`, `is_sharded` of `gradiv.Wire`.

  Raises:
    ValueError: On a bad argument; and, while tracing, where the gradient has
      been reduced over the axis already.
  """
  # Rows that are left out are zero, and have no sign.
  return _coordinatewise.by_coordinate(
    lambda rows, present, key: (jnp.sign(jnp.sign(rows).sum(0)), None),
    axis_name, layout)


def aggregate_by_sign_dropout(
  axis_name: workers.AxisName, *, key: jax.Array, **layout: Any
) -> optax.GradientTransformationExtraArgs:
  """Keep at each coordinate one sign, drawn by its share (GradDrop).

  With P = (1 + Σ g_i/Σ |g_i|)/2, the sum of the positive values with
  probability P, else of the negative ones. A sum, not a mean, as in TorchJD.

  *Chen et al., `Just Pick a Sign: Optimizing Deep Multitask Models with
  Gradient Sign Dropout <https://arxiv.org/abs/2010.06808>`_, 2020*.

  >>> tx = aggregate_by_sign_dropout('workers', key=jax.random.key(0))
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> jax.vmap(step, axis_name='workers', out_axes=None)(
  ...     jnp.array([[1., 0.], [3., -1.]])).tolist()
  [4.0, -1.0]

  Args:
    axis_name: The axis, or axes, over which the workers lie.
    key: Folded by the step, the leaf and the worker that holds the slice.
    **layout: `mean_over`, `sharded_over`, `is_sharded` of `gradiv.Wire`.

  Raises:
    ValueError: On a bad argument; and, while tracing, where the gradient has
      been reduced over the axis already.
  """
  if key is None:
    raise ValueError('key=None: must be a jax.random key')

  def pick(rows, present, key):
    del present  # rows that are left out are zero
    total = jnp.abs(rows).sum(0)
    share = (1 + rows.sum(0) / jnp.where(total > 0, total, 1)) / 2
    positive = jax.random.uniform(key, share.shape) < share
    keep = jnp.where(positive[None], rows > 0, rows < 0)
    share_kept = keep.sum(0) / jnp.maximum((rows != 0).sum(0), 1)
    return jnp.where(keep, rows, 0).sum(0), share_kept

  return _coordinatewise.by_coordinate(pick, axis_name, layout, key=key)
