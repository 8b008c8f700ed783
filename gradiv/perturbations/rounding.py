"""Stochastic rounding of gradients to a few levels, without bias.

Each coordinate lies between two levels, and is rounded up with the probability
f that keeps its mean: Q(v) = sign(v) (low + gap·Bernoulli(f)), so that
E Q(v) = v and E‖Q(v)‖² = ‖v‖² + Σ gap² f (1 − f).
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from gradiv import workers
from gradiv._common import checks, draws, trees
from gradiv.perturbations import _levels

METHODS = _levels.METHODS


def stochastic_quantize(
  key: jax.Array,
  tree: Any,
  num_levels: int = 1,
  *,
  method: str = 'norm',
  bucket_size: int | None = None,
) -> Any:
  """Round each coordinate at random to one of a few levels, with E Q(v) = v.

  There are three methods:

  * 'norm' is QSGD: Q(v)_l = ‖v‖₂ sign(v_l) k/s, where k is one of the two
    integers around s|v_l|/‖v‖₂. With s = 1 it is the quantization of Yin et
    al., and E‖Q(v)‖² = ‖v‖₂‖v‖₁.
  * 'max' uses max|v_l| instead of ‖v‖₂; with s = 1 it is TernGrad.
  * 'natural' rounds to powers of two, and E‖Q(v)‖² ≤ 9/8 ‖v‖².

  Args:
    key: Random key, folded with the leaf.
    tree: Tree of floating leaves. In 16-bit leaves the levels, and hence the
      mean, are rounded to the leaf's dtype. A norm that is not finite, or is
      above 1e37, gives NaN.
    num_levels: Number s of levels besides zero; 1 by default. Must be 1 with
      'natural'.
    method: 'norm' (the default), 'max' or 'natural'.
    bucket_size: Number of neighboring coordinates of a leaf that share a norm;
      the last bucket of a leaf may be smaller. By default the whole tree
      shares one norm, as in theory. A size that no leaf exceeds gives each
      leaf its own, as in TernGrad.

  Returns:
    The rounded tree.

  Raises:
    ValueError: If `key` is no random key, `method` is none of the three, or
      `num_levels` or `bucket_size` is not a whole number of at least 1 (with
      'natural': not 1 and None).

  Alistarh et al., `QSGD <https://arxiv.org/abs/1610.02132>`_, 2017; Wen et
  al., `TernGrad <https://arxiv.org/abs/1705.07878>`_, 2017; Horváth et al.,
  `Natural Compression <https://arxiv.org/abs/1905.10988>`_, 2019; Yin et al.,
  `Gradient Diversity <https://proceedings.mlr.press/v84/yin18a.html>`_, 2018.

  >>> q = stochastic_quantize(jax.random.key(0), jnp.array([3., 4., 0.]))
  >>> sorted(set(q.tolist()) | {0., 5.})
  [0.0, 5.0]

  With one level, every coordinate becomes 0 or the norm, which is 5.
  """
  checks.key('key', key)
  _levels.check(num_levels, method, bucket_size)

  def leaf(key, v, levels):
    up = draws.round_up(key, levels.chance)
    magnitude = levels.low + levels.gap * up
    return jnp.where(v < 0, -magnitude, magnitude).astype(v.dtype)

  return draws.map_leaves(
    leaf, key, tree, _levels.find(tree, num_levels, method, bucket_size))


def quantized_sq_norm(
  tree: Any,
  num_levels: int = 1,
  *,
  method: str = 'norm',
  bucket_size: int | None = None,
) -> jax.Array:
  """Compute E‖Q(v)‖² = ‖v‖² + Σ gap² f (1 − f), without drawing anything.

  Its mean over gradients is an argument of `quantized_batch_size_bound`.

  Args:
    tree: Tree v of floating leaves.
    num_levels: As in `stochastic_quantize`.
    method: As in `stochastic_quantize`.
    bucket_size: As in `stochastic_quantize`.

  Returns:
    The expected squared norm, in at least float32.

  >>> float(quantized_sq_norm(jnp.array([3., -4.])))
  35.0

  With one level that is ‖v‖₂‖v‖₁ = 5 · 7.
  """
  _levels.check(num_levels, method, bucket_size)

  def leaf(v, levels):
    spread = levels.gap**2 * levels.chance * (1 - levels.chance)
    return trees.sq_norm(v) + jnp.sum(spread)

  expected = jax.tree.map(
    leaf, tree, _levels.find(tree, num_levels, method, bucket_size))
  return sum(jax.tree.leaves(expected), jnp.float32(0))


def quantize_updates(
  num_levels: int,
  *,
  key: jax.Array,
  axis_name: workers.AxisName | None = None,
  method: str = 'norm',
  bucket_size: int | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Quantize the updates by `stochastic_quantize`, with E Q(g) = g.

  Use it in front of `aggregate_by_*` to study how quantization raises gradient
  diversity; `quantized_batch_size_bound` predicts by how much. The result is
  still floating point: to send fewer bits, use `aggregate_by_quantized_mean`.

  Args:
    num_levels: Number s of levels besides zero.
    key: Random key. It is folded with the step, the leaf, and the worker or
      the example.
    axis_name: Axis, or axes, of the workers (or examples), each of which
      rounds on its own. If you call ``update(..., example_index=i)`` instead,
      the rounding belongs to example i. With neither, all workers share it.
    method: 'norm' (the default), 'max' or 'natural'.
    bucket_size: Number of neighboring coordinates that share a norm; all by
      default.

  Returns:
    A transformation with a `DrawState`. Its update raises a ValueError,
    while tracing, if updates differ along an axis along which the draws would
    be shared.

  >>> tx = quantize_updates(1, key=jax.random.key(0), method='max')
  >>> update, _ = tx.update(jnp.array([2., 1.]), tx.init(jnp.zeros(2)))
  >>> float(update[0])
  2.0

  The largest coordinate is a level, and stays. The other becomes 0 or 2.
  """
  _levels.check(num_levels, method, bucket_size)
  return draws.transformation(
    'quantize_updates',
    lambda key, updates, count: stochastic_quantize(
      key, updates, num_levels, method=method, bucket_size=bucket_size),
    key, axis_name)
