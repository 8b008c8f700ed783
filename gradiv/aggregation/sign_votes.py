"""Rules that compare the signs of the workers at each coordinate."""

import jax
import jax.numpy as jnp
import optax

from gradiv import workers
from gradiv._common import checks, layout as layouts
from gradiv.aggregation import coordinatewise


def aggregate_by_sign_agreement(
  threshold: jax.typing.ArrayLike,
  axis_name: workers.AxisName,
  *,
  normalize: bool = False,
  layout: layouts.Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Average the coordinates on whose sign the workers agree (AND-mask).

  Use it to keep what is common to several environments or domains, one per
  worker. u = m ⊙ ḡ with m = 1 where |(1/n) Σ sign(g_i)| ≥ τ, else 0.

  *Parascandolo et al., `Learning explanations that are hard to vary
  <https://arxiv.org/abs/2009.00329>`_, 2020*.

  Args:
    threshold: τ, from 0 (keep all) to 1 (only if all signs are equal).
    axis_name: Axis, or axes, of the workers.
    normalize: Whether to divide each leaf by the fraction of its coordinates
      that are kept.
    layout: Layout of the gradients; `groups` is not supported.

  >>> tx = aggregate_by_sign_agreement(1.0, 'workers')
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> jax.jit(jax.vmap(step, axis_name='workers', out_axes=None))(
  ...     jnp.array([[1., 5.], [3., -1.]])).tolist()
  [2.0, 0.0]

  The workers disagree on the sign of the second coordinate.
  """
  checks.within('threshold', threshold, 0, 1, one=True)

  def mask(rows, present, key):
    del key
    present = present[:, None]
    sign = coordinatewise.mean_of(jnp.sign(rows), present)
    agree = jnp.abs(sign) >= threshold
    return coordinatewise.mean_of(rows, present) * agree, agree

  return coordinatewise.by_coordinate(
    mask, axis_name, layout, normalize=normalize)


def aggregate_by_smooth_sign_agreement(
  threshold: jax.typing.ArrayLike,
  axis_name: workers.AxisName,
  *,
  sharpness: jax.typing.ArrayLike = 1.0,
  normalize: bool = True,
  layout: layouts.Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Scale the average of each coordinate by how much its signs agree.

  The smooth form of `aggregate_by_sign_agreement` (SAND-mask), which also
  gives less weight to coordinates that vary more between workers. u = m ⊙ ḡ
  with m = max(0, tanh(k (|(1/n) Σ sign(g_i)| − τ)/v)), where v is the variance
  of the workers at the coordinate, with divisor n − 1.

  *Shahtalebi et al., `SAND-mask: An Enhanced Gradient Masking Strategy for the
  Discovery of Invariances in Domain Generalization
  <https://arxiv.org/abs/2106.02266>`_, 2021*; as in DomainBed, each leaf is
  divided by the mean of its mask.

  Args:
    threshold: τ, from 0 to 1; coordinates that agree less are dropped.
    axis_name: Axis, or axes, of the workers.
    sharpness: k, positive.
    normalize: Whether to divide each leaf by the mean of its mask.
    layout: Layout of the gradients; `groups` is not supported.

  >>> tx = aggregate_by_smooth_sign_agreement(0.5, 'workers')
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> jax.jit(jax.vmap(step, axis_name='workers', out_axes=None))(
  ...     jnp.array([[1., 5.], [1., -1.]])).round(3).tolist()
  [2.0, 0.0]

  The mask is [1, 0], with a mean of 1/2, by which the leaf is divided.
  """
  checks.within('threshold', threshold, 0, 1, one=True)
  checks.positive('sharpness', sharpness, one=True)

  def mask(rows, present, key):
    del key
    present = present[:, None]
    mean = coordinatewise.mean_of(rows, present)
    sign = coordinatewise.mean_of(jnp.sign(rows), present)
    beyond = jnp.abs(sign) - threshold
    square = jnp.where(present, (rows - mean[None])**2, 0).sum(0)
    variance = square / jnp.maximum(present.sum() - 1, 1)
    # Without any variance the sign alone decides.
    ratio = jnp.where(variance > 0, beyond / variance,
                      jnp.where(beyond > 0, jnp.inf, 0))
    weight = jnp.maximum(jnp.tanh(sharpness * ratio), 0)
    return weight * mean, weight

  return coordinatewise.by_coordinate(
    mask, axis_name, layout, normalize=normalize)


def aggregate_by_sign_majority(
  axis_name: workers.AxisName,
  *,
  layout: layouts.Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Let the workers vote on the sign of each coordinate: sign(Σ sign(g_i)).

  Use it to study signSGD. The gradients themselves are exchanged here, not
  only their signs, so it saves no traffic.

  *Bernstein et al., `signSGD with Majority Vote is Communication Efficient And
  Fault Tolerant <https://arxiv.org/abs/1810.05291>`_, 2018*.

  Args:
    axis_name: Axis, or axes, of the workers.
    layout: Layout of the gradients; `groups` is not supported.

  >>> tx = aggregate_by_sign_majority('workers')
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> jax.jit(jax.vmap(step, axis_name='workers', out_axes=None))(
  ...     jnp.array([[7., 1.], [-1., 0.], [-2., 0.]])).tolist()
  [-1.0, 1.0]
  """
  # Rows of workers that are left out are zero, and have no sign.
  return coordinatewise.by_coordinate(
    lambda rows, present, key: (jnp.sign(jnp.sign(rows).sum(0)), None),
    axis_name, layout)


def aggregate_by_sign_dropout(
  axis_name: workers.AxisName,
  *,
  key: jax.Array,
  layout: layouts.Layout | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Keep one sign at each coordinate, drawn in proportion (GradDrop).

  Use it for gradients of several tasks, one per worker. With P =
  (1 + Σ g_i/Σ |g_i|)/2, the result is the sum of the positive values with
  probability P, else that of the negative ones. It is a sum, not a mean, as in
  TorchJD.

  *Chen et al., `Just Pick a Sign: Optimizing Deep Multitask Models with
  Gradient Sign Dropout <https://arxiv.org/abs/2010.06808>`_, 2020*.

  Args:
    axis_name: Axis, or axes, of the workers.
    key: Key; folded by the step, the leaf and the worker that holds the slice.
    layout: Layout of the gradients; `groups` is not supported.

  >>> tx = aggregate_by_sign_dropout('workers', key=jax.random.key(0))
  >>> step = lambda g: tx.update(g, tx.init(g))[0]
  >>> jax.jit(jax.vmap(step, axis_name='workers', out_axes=None))(
  ...     jnp.array([[1., -1.], [3., 0.]])).tolist()
  [4.0, -1.0]

  The values at each coordinate have one sign only, which is kept for certain.
  """
  checks.key('key', key)

  def pick(rows, present, key):
    del present  # rows of workers that are left out are zero
    total = jnp.abs(rows).sum(0)
    chance = (1 + rows.sum(0) / jnp.where(total > 0, total, 1)) / 2
    positive = jax.random.uniform(key, chance.shape) < chance
    keep = jnp.where(positive[None], rows > 0, rows < 0)
    fraction_kept = keep.sum(0) / jnp.maximum((rows != 0).sum(0), 1)
    return jnp.where(keep, rows, 0).sum(0), fraction_kept

  return coordinatewise.by_coordinate(
    pick, axis_name, layout, purpose='aggregate_by_sign_dropout', key=key)
