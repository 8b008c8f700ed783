"""Stochastic rounding of a gradient to a few levels, without bias.

Each coordinate lies between two levels, and goes to the upper one with the
chance f that keeps its mean: Q(v) = sign(v) (low + gap·Bernoulli(f)), so that
E Q(v) = v and E‖Q(v)‖² = ‖v‖² + Σ gap² f (1 − f).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gradiv import workers
from gradiv._common import checks, draws, trees

METHODS = ('norm', 'max', 'natural')
_LARGEST_SCALE = 1e37


class Levels(NamedTuple):
  """Where the magnitude of each coordinate of a leaf lies.

  Attributes:
    low: The level below it.
    gap: From there to the next.
    chance: f, of the upper one.
  """

  low: jax.Array
  gap: jax.Array
  chance: jax.Array


def stochastic_quantize(
  key: jax.Array,
  tree: Any,
  num_levels: int = 1,
  *,
  method: str = 'norm',
  bucket_size: int | None = None,
) -> Any:
  """Round each coordinate to one of a few levels at random, E Q(v) = v.

  'norm' is QSGD: Q(v)_l = ‖v‖₂ sign(v_l) k/s, k one of the whole numbers next
  to s|v_l|/‖v‖₂. With s = 1 level it is the quantization of Yin et al., and
  E‖Q(v)‖² = ‖v‖₂‖v‖₁. 'max' has max|v_l| in place of ‖v‖₂, and with s = 1 is
  TernGrad. 'natural' rounds to powers of two: E‖Q(v)‖² ≤ 9/8 ‖v‖².

  >>> q = stochastic_quantize(jax.random.key(0), jnp.array([3., 4., 0.]))
  >>> sorted(set(q.tolist()) | {0., 5.})
  [0.0, 5.0]

  Alistarh et al., `QSGD <https://arxiv.org/abs/1610.02132>`_, 2017; Wen et
  al., `TernGrad <https://arxiv.org/abs/1705.07878>`_, 2017; Horváth et al.,
  `Natural Compression <https://arxiv.org/abs/1905.10988>`_, 2019; Yin et al.,
  `Gradient Diversity <https://proceedings.mlr.press/v84/yin18a.html>`_, 2018.

  Args:
    key: Folded by the leaf.
    tree: Of floating leaves. Below float32, levels are rounded to the dtype,
      and the mean with them. A norm that is not finite, or above 1e37, gives
      NaN.
    num_levels: s, beside zero; 1 with 'natural', which has no such number.
    method: 'norm', 'max' or 'natural'.
    bucket_size: How many neighbours within a leaf share a norm; the last
      bucket of a leaf may be smaller. None: the whole tree is one vector, as
      in theory. A size no leaf exceeds: each leaf by itself, as TernGrad has.

  Raises:
    ValueError: On a bad argument.
  """
  _check(num_levels, method, bucket_size)

  def leaf(key, v, levels):
    up = draws.round_up(key, levels.chance)
    magnitude = levels.low + levels.gap * up
    return jnp.where(v < 0, -magnitude, magnitude).astype(v.dtype)

  return draws.map_leaves(
    leaf, key, tree, _levels(tree, num_levels, method, bucket_size))


def quantized_sq_norm(
  tree: Any,
  num_levels: int = 1,
  *,
  method: str = 'norm',
  bucket_size: int | None = None,
) -> jax.Array:
  """Compute E‖Q(v)‖² = ‖v‖² + Σ gap² f (1 − f), with nothing drawn.

  Its mean over gradients is what `quantized_bound` asks for.

  >>> float(quantized_sq_norm(jnp.array([3., -4.])))
  35.0

  Args:
    tree: v.
    num_levels: As in `stochastic_quantize`.
    method: Likewise.
    bucket_size: Likewise.
  """
  _check(num_levels, method, bucket_size)

  def leaf(v, levels):
    spread = levels.gap**2 * levels.chance * (1 - levels.chance)
    return trees.sq_norm(v) + jnp.sum(spread)

  return sum(jax.tree.leaves(jax.tree.map(
    leaf, tree, _levels(tree, num_levels, method, bucket_size))),
    jnp.float32(0))


def quantize_updates(
  num_levels: int,
  *,
  key: jax.Array,
  axis_name: workers.AxisName | None = None,
  method: str = 'norm',
  bucket_size: int | None = None,
) -> optax.GradientTransformationExtraArgs:
  """Quantize the updates, as `stochastic_quantize`: E Q(g) = g.

  What that does to B_S tells `quantized_bound`. The numbers are still floats:
  fewer bits go on the wire by `aggregate_by_quantized_mean`.

  >>> tx = quantize_updates(1, key=jax.random.key(0), method='max')
  >>> update, _ = tx.update(jnp.array([2., 1.]), tx.init(jnp.zeros(2)))
  >>> float(update[0])
  2.0

  Args:
    num_levels: s.
    key: Folded by the step, the leaf, and the worker or the example.
    axis_name: The workers, or examples, each with draws of its own. With the
      extra argument ``update(..., example_index=i)`` they are tied to example
      i instead. With neither they are common to all.
    method: 'norm', 'max' or 'natural'.
    bucket_size: How many coordinates share a norm; None: all.

  Raises:
    ValueError: On a bad argument; and, while tracing, where jax knows of an
      axis along which updates differ and the draws would not.
  """
  _check(num_levels, method, bucket_size)
  return draws.transformation(
    'quantize_updates',
    lambda key, updates, count: stochastic_quantize(
      key, updates, num_levels, method=method, bucket_size=bucket_size),
    key, axis_name)


def _check(num_levels, method, bucket_size):
  checks.count('num_levels', num_levels, 1)
  checks.choice('method', method, METHODS)
  if bucket_size is not None:
    checks.count('bucket_size', bucket_size, 1)
  if method == 'natural' and (num_levels, bucket_size) != (1, None):
    raise ValueError(
      f'num_levels={num_levels!r}, bucket_size={bucket_size!r}: must be 1 and '
      "None with method='natural', whose levels are the powers of two")


def _levels(tree, num_levels, method, bucket_size):
  """Find the levels around each coordinate: a tree of `Levels`."""
  wide = jax.tree.map(lambda v: jnp.abs(trees.widen(v)), tree)
  if method == 'natural':
    return jax.tree.map(_powers_of_two, wide)
  norm = _norm if method == 'norm' else _largest
  if bucket_size is None:
    scale = norm(jax.tree.leaves(wide))
    return jax.tree.map(lambda v: _multiples(v, scale, num_levels), wide)

  def leaf(v):
    size = min(bucket_size, max(v.size, 1))
    rows = jnp.pad(v.ravel(), (0, -v.size % size)).reshape(-1, size)
    scales = jax.vmap(lambda row: norm([row]))(rows)[:, None]
    return jax.tree.map(lambda x: x.ravel()[:v.size].reshape(v.shape),
                        _multiples(rows, scales, num_levels))

  return jax.tree.map(leaf, wide)


def _multiples(v, scale, num_levels):
  """The multiples of scale/s around each v; zeros where all is zero."""
  scale = _divisor(scale)
  safe = jnp.where(scale == 0, 1, scale)
  place = jnp.minimum(v / safe, 1) * num_levels
  low = jnp.floor(place)
  gap = jnp.broadcast_to(scale / num_levels, v.shape)
  return Levels(low * gap, gap, place - low)


def _powers_of_two(v):
  """The powers of two around each v, which is one of them or not."""
  mantissa, exponent = jnp.frexp(v)  # v = mantissa · 2^exponent, from ½ to 1
  low = jnp.ldexp(jnp.ones_like(v), exponent - 1)
  low = jnp.where(v == 0, 0, jnp.where(jnp.isfinite(v), low, jnp.nan))
  return Levels(low, low, jnp.maximum(2 * mantissa - 1, 0))


def _divisor(scale):
  """NaN where the reciprocal, by which XLA divides, would be flushed to 0."""
  return jnp.where(scale < _LARGEST_SCALE, scale, jnp.nan)


def _largest(leaves):
  return _divisor(jnp.stack(
    [jnp.max(v, initial=0) for v in leaves] or [jnp.float32(0)]).max())


def _norm(leaves):
  """‖v‖₂, by the largest coordinate: its square could overflow."""
  largest = _largest(leaves)
  safe = jnp.where(largest == 0, 1, largest)
  return largest * jnp.sqrt(
    sum((trees.sq_norm(v / safe) for v in leaves), jnp.float32(0)))
