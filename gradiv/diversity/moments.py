"""The two numbers of a sample of gradients from which the rest follows.

A sample is g_1 ... g_n, each the mean of the gradients of b examples. With
the mean ḡ, the `Moments` are ‖ḡ‖² and the centred (1/n) Σ ‖g_i − ḡ‖². They
are taken centred, since a difference of two large squares would cancel, and
in at least float32, since bfloat16 norms err in the third digit. Of single
examples, whose gradients are not written out, they are that difference.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv import workers
from gradiv._common import trees

Grouping = Callable[[tuple], str]


class Moments(NamedTuple):
  """Second moments of a sample of gradients.

  Attributes:
    num_gradients: n, how many gradients are compared.
    batch_size: b, examples behind each; their mean where they differ.
    sq_norm_of_mean: ‖ḡ‖², with ḡ weighted by the examples behind each g_i.
    mean_sq_deviation: Σ b_i ‖g_i − ḡ‖² / Σ b_i.
  """

  num_gradients: jax.Array
  batch_size: jax.Array
  sq_norm_of_mean: jax.Array
  mean_sq_deviation: jax.Array


def by_layer(path: tuple) -> str:
  """Name the layer of a leaf: its path without the last step.

  >>> tree = {'encoder': {'dense': {'kernel': 0, 'bias': 0}}}
  >>> [by_layer(p) for p, _ in jax.tree_util.tree_leaves_with_path(tree)]
  ['encoder/dense', 'encoder/dense']
  """
  return jax.tree_util.keystr(path[:-1] or path, simple=True, separator='/')


def worker_moments(
  grads: optax.Updates,
  axis_name: workers.AxisName,
  *,
  batch_size: jax.typing.ArrayLike = 1,
  reduction: str = 'mean',
  groups: Grouping | None = None,
) -> Moments | dict[str, Moments]:
  """Compute the `Moments` of the workers' gradients.

  Costs the all-reduce of the mean gradient, which the compiler shares with
  `aggregate_by_mean`, and one of two scalars. NaN, for unavailable, where a
  worker's gradient is not finite.

  >>> grads = jnp.array([[3., 0.], [1., 0.]])
  >>> m = jax.vmap(lambda g: worker_moments(g, 'workers'), axis_name='workers',
  ...              out_axes=None)(grads)
  >>> float(m.sq_norm_of_mean), float(m.mean_sq_deviation)
  (4.0, 1.0)

  Args:
    grads: This worker's gradient; a tree of floating leaves.
    axis_name: The axis, or axes, over which the workers lie.
    batch_size: Examples behind this worker's gradient. An array may differ by
      worker: the mean is then weighted, and estimates stay unbiased.
    reduction: 'mean' where the loss averages over its `batch_size` examples,
      'sum' where it adds them up.
    groups: Names the group of a leaf by its path, such as `by_layer`: the
      result is then a dict of Moments, for the price of one vector.

  Raises:
    ValueError: On a bad argument; and where the gradient has been reduced
      over the axis already, so that nothing is left to compare.
  """
  check_batch_size(batch_size)
  check_reduction(reduction)
  workers.check_private(grads, axis_name)
  # Left out as `aggregate_by_mean` does, which then shares the all-reduce.
  finite = trees.is_usable(trees.sq_norm(grads))
  grads = trees.widen(trees.keep_if(finite, grads))
  if reduction == 'sum':
    grads = jax.tree.map(lambda g: g / batch_size, grads)
  n = workers.num_workers(axis_name)
  # Arrays may differ by worker; a number cannot, and needs no collective.
  private = isinstance(batch_size, jax.Array)
  mean_batch = lax.psum(batch_size, axis_name) / n if private else batch_size
  weight = batch_size / mean_batch
  mean = jax.tree.map(
    lambda g: lax.psum(g * weight if private else g, axis_name) / n, grads
  )
  deviation = jax.tree.map(lambda g, m: trees.sq_norm(g - m) * weight, grads, mean)
  sq_means = _grouped(jax.tree.map(trees.sq_norm, mean), groups)
  deviations, num_left_out = lax.psum(
    (_grouped(deviation, groups), 1 - finite.astype(jnp.float32)), axis_name)
  unknown = jnp.where(num_left_out > 0, jnp.nan, 0)
  moments = {
    name: Moments(jnp.float32(n), jnp.float32(mean_batch),
                  sq_means[name] + unknown, deviations[name] / n + unknown)
    for name in sq_means
  }
  return moments if groups else moments['']


def merge_moments(
  a: Moments, b: Moments, *, sq_distance: jax.typing.ArrayLike
) -> Moments:
  """Pool two samples exactly.

  With the shares p, q = 1 − p of the examples and d² = ‖ḡ_a − ḡ_b‖²:
  ‖ḡ‖² = p‖ḡ_a‖² + q‖ḡ_b‖² − pq d², and deviation p v_a + q v_b + pq d².

  Args:
    a: One sample.
    b: The other.
    sq_distance: ‖ḡ_a − ḡ_b‖², which two `Moments` alone do not tell.
  """
  size_a, size_b = (m.num_gradients * m.batch_size for m in (a, b))
  n = a.num_gradients + b.num_gradients
  p, q = size_a / (size_a + size_b), size_b / (size_a + size_b)
  between = p * q * sq_distance
  pool = lambda x, y: p * x + q * y
  sq_norm_of_mean = pool(a.sq_norm_of_mean, b.sq_norm_of_mean) - between
  return Moments(
    num_gradients=n,
    batch_size=(size_a + size_b) / n,
    sq_norm_of_mean=jnp.maximum(sq_norm_of_mean, 0),
    mean_sq_deviation=pool(a.mean_sq_deviation, b.mean_sq_deviation) + between,
  )


def check_batch_size(batch_size) -> None:
  """Raise ValueError unless `batch_size` is positive, where that is known."""
  if not isinstance(batch_size, jax.Array) and not batch_size > 0:
    raise ValueError(f'batch_size={batch_size!r}: must be positive')


def check_reduction(reduction: str) -> None:
  """Raise ValueError unless the loss is declared as a mean or a sum."""
  if reduction not in ('mean', 'sum'):
    raise ValueError(f"reduction={reduction!r}: must be 'mean' or 'sum'")


def _grouped(scalars, groups):
  """Add the scalars of each group up; without groups, of the whole tree."""
  totals = {}
  for path, x in jax.tree_util.tree_leaves_with_path(scalars):
    name = groups(path) if groups else ''
    totals[name] = totals.get(name, 0) + x
  return totals
