"""The Gram matrix of the workers' gradients, G_ij = ⟨g_i, g_j⟩.

A rule that looks at gradients through their inner products alone needs n²
numbers to decide, and the traffic of one all-reduce to act:

  all-to-all of D > partial Gram > psum of n² > weights > weighted sum of the
  slices > all-gather of D

The result is the exact one; neither n gradients in one place nor a second pass
over them is needed. See *SimplexLab, `TorchJD
<https://github.com/SimplexLab/TorchJD>`_* for how many rules are of this kind.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv import weightings, workers
from gradiv._common import trees
from gradiv.aggregation._exchange import layout as wires, slices


def worker_gram(
  grads: optax.Updates,
  axis_name: workers.AxisName,
  **layout: Any,
) -> jax.Array | dict[str, jax.Array]:
  """Compute G_ij = ⟨g_i, g_j⟩ over the workers: [n, n], float32.

  Costs half of an all-reduce and n² numbers. The row and the column of a
  worker whose gradient is not finite are NaN; `weightings` leave it out.

  >>> grads = jnp.array([[3., 0., 4.], [0., 2., 1.], [1., 0., 0.]])
  >>> gram = lambda g: worker_gram(g, 'workers')
  >>> jax.vmap(gram, axis_name='workers', out_axes=None)(grads).tolist()
  [[25.0, 4.0, 3.0], [4.0, 5.0, 0.0], [3.0, 0.0, 1.0]]

  Args:
    grads: This worker's gradient.
    axis_name: The axis, or axes, over which the workers lie.
    **layout: Fields of `gradiv.Wire`; with `groups`, such as `by_layer`, the
      result is a dict of matrices.

  Raises:
    ValueError: On a bad argument; and where the gradient has been reduced
      over the axis already, so that nothing is left to compare.
  """
  wire = wires.Wire.of(axis_name, layout)
  grams, present, _ = gram_of(slices.scatter(wires.admit(grads, wire)))
  both = present[:, None] & present[None, :]
  grams = {name: jnp.where(both, g, jnp.nan) for name, g in grams.items()}
  return grams if wire.groups else grams['']


def pairwise_cosine(gram: jax.Array) -> jax.Array:
  """Read the cosines G_ij/√(G_ii G_jj) off a Gram matrix.

  NaN, for unavailable, beside a gradient of zero.

  >>> pairwise_cosine(jnp.array([[25., 3.], [3., 1.]]))[0, 1]
  Array(0.6, dtype=float32)
  """
  norms = jnp.sqrt(jnp.diagonal(gram))
  # Divided one after the other: the product may overflow.
  return gram / norms[:, None] / norms[None, :]


def combine(
  grads: optax.Updates, weights: jax.Array, axis_name: workers.AxisName
) -> optax.Updates:
  """Sum the workers' gradients with weights: Σ w_i g_i, on each worker.

  One all-reduce, in at least float32. A worker of weight zero is left out,
  whatever its gradient.

  >>> both = lambda g: combine(g, jnp.array([0., 2.]), 'workers')
  >>> jax.vmap(both, axis_name='workers', out_axes=None)(
  ...     jnp.array([[jnp.nan], [3.]])).tolist()
  [6.0]

  Args:
    grads: This worker's gradient.
    weights: [n], the same on each worker.
    axis_name: The axis, or axes, over which the workers lie.

  Raises:
    ValueError: Where there is not one weight for each worker, or the gradient
      has been reduced over the axis already.
  """
  workers.check_private(grads, axis_name)
  n = workers.num_workers(axis_name)
  if weights.shape != (n,):
    raise ValueError(f'weights of shape {weights.shape}: must be one for each '
                     f'of the {n} workers')
  own = weights[lax.axis_index(axis_name)]

  def weighted_sum(g):
    mine = jnp.where(own != 0, own * trees.widen(g), 0)
    return lax.psum(mine, axis_name).astype(g.dtype)

  return jax.tree.map(weighted_sum, grads)


def gram_of(
  met: slices.Slices, *, centred: bool = False
) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
  """Add the Gram matrices of all slices up: one psum of n² numbers and n.

  Args:
    met: The slices.
    centred: Take that of g_i − c instead, with c about the mean: distances
      between gradients that are close to one another stay exact.

  Returns:
    The matrix of each group, with rows for the extra trees last; which workers
    are present; and how many gradients were left out. Rows and columns of
    workers that are not present are zero.
  """
  wire = met.wire
  names = wire.names('axis_name')
  n = workers.num_workers(names)
  size = n + (met.extra[0].shape[0] if met.extra else 0)
  grams = {} if wire.groups else {'': jnp.zeros((size, size), jnp.float32)}
  for bucket, rows, extra in zip(met.buckets, met.rows, met.extra):
    part = _gram(rows, extra, centred)
    if not bucket.is_sharded:
      part = part / wire.num_shards
    grams[bucket.group] = grams.get(bucket.group, 0) + part
  grams, flags = wires.sum_over(wire, (grams, wires.flags_of(met)))
  present, num_left_out = wires.read_flags(flags)
  kept = weightings.with_extra(present, size - n)
  both = kept[:, None] & kept[None, :]
  grams = {name: jnp.where(both, g, 0) for name, g in grams.items()}
  return grams, present, num_left_out


def gram_of_pair(admitted: wires.Admitted) -> tuple:
  """Compute the Gram matrix of two workers from the sum of their gradients.

  Each takes its inner product with the rest of the sum, and the one with the
  shorter gradient, in whose rest less is lost to rounding, is believed.

  Returns:
    As `gram_of`; and the sum: one all-reduce, that of the mean, and one psum
    of 2 × 2 numbers.
  """
  wire, names = admitted.wire, admitted.wire.names('axis_name')
  total = jax.tree.map(lambda g: lax.psum(g, names), admitted.grads)
  me, rows = lax.axis_index(names), {}
  for (path, g), s in zip(
      jax.tree_util.tree_leaves_with_path(admitted.grads),
      jax.tree.leaves(total)):
    # Elementwise, as in `trees.sq_norm`.
    dots = jnp.stack([trees.sq_norm(g), jnp.sum(g * (s - g))])
    name = wire.group_of(path)
    rows[name] = rows.get(name, 0) + (
      dots if wire.shards(path) else dots / wire.num_shards)
  place = lambda row: jnp.zeros((2, 2), jnp.float32).at[me].set(row)
  rows, flags = wires.sum_over(
    wire, (jax.tree.map(place, rows), wires.flags_of(admitted)))

  def gram(rows):
    squares = rows[:, 0]
    across = rows[jnp.argmin(squares), 1]
    return jnp.where(jnp.eye(2, dtype=bool), squares, across)

  grams = {name: gram(x) for name, x in rows.items()}
  grams = grams or {'': jnp.zeros((2, 2), jnp.float32)}
  return grams, *wires.read_flags(flags), total


def weigh(
  met: slices.Slices, weights: dict[str, jax.Array]
) -> Sequence[jax.Array]:
  """Sum the rows of each slice with the weights of its group, in float32."""
  def weighted_sum(bucket, rows, extra):
    w = weights[bucket.group]
    n = rows.shape[0]
    total = _dot(w[:n], rows)
    return total + _dot(w[n:], extra) if extra.shape[0] else total

  return [weighted_sum(*each)
          for each in zip(met.buckets, met.rows, met.extra)]


def _gram(rows, extra, centred):
  """The Gram matrix of one slice, float32, at full precision."""
  if centred:
    # Any centre will do. Rows that are left out are zero: not part of it.
    count = jnp.sum(jnp.any(rows != 0, 1))
    rows = trees.widen(rows)
    centre = rows.sum(0) / jnp.maximum(count, 1)
    rows = rows - centre[None]
    extra = trees.widen(extra) - centre[None] if extra.shape[0] else extra
  own = _outer(rows, rows)
  if not extra.shape[0]:
    return own
  across = _outer(rows, extra)
  return jnp.block([[own, across], [across.T, _outer(extra, extra)]])


def _outer(x, y):
  if max(len(x), len(y)) < 4:
    # So few products XLA's CPU, up to jaxlib 0.9, adds up one by one: an error
    # of 5e-4 at 10⁶ elements.
    product = trees.widen(x)[:, None] * trees.widen(y)[None]
    return product.sum(-1).astype(jnp.float32)
  product = lax.dot_general(
    x, y, (((1,), (1,)), ((), ())), precision=lax.Precision.HIGHEST,
    preferred_element_type=trees.wide_dtype(x.dtype))
  return product.astype(jnp.float32)


def _dot(weights, rows):
  rows = trees.widen(rows)
  return jnp.matmul(weights.astype(rows.dtype), rows,
                    precision=lax.Precision.HIGHEST)
