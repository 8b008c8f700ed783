"""The Gram matrix of the workers' gradients, G_ij = ⟨g_i, g_j⟩.

`worker_gram`, a weighting and `combine` are the three steps that
`aggregate_by_weights` performs in one.
"""

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv import workers
from gradiv._common import layout as layouts, trees
from gradiv.aggregation._exchange import collecting, finite, membership


def worker_gram(
  grads: optax.Updates,
  axis_name: workers.AxisName,
  *,
  layout: layouts.Layout | None = None,
) -> jax.Array:
  """Compute the inner products of all pairs of workers' gradients.

  Use it to look at how workers agree, or to decide weights by hand; pass them
  to `combine`. Costs half an all-reduce and n² numbers.

  Args:
    grads: This worker's gradient.
    axis_name: Axis, or axes, of the workers.
    layout: Layout of the gradients; by default one whole gradient per worker.

  Returns:
    G_ij = ⟨g_i, g_j⟩ in float32, [n, n]; with `Layout.groups`, one matrix per
    group, [groups, n, n], in the order of `gradiv.group_names`. The row and
    the column of a worker whose gradient is not finite are NaN; weightings
    leave such a worker out.

  Raises:
    ValueError: While tracing, if the gradient has already been reduced over
      the axis.

  >>> grads = jnp.array([[3., 0., 4.], [0., 2., 1.], [1., 0., 0.]])
  >>> gram = lambda g: worker_gram(g, 'workers')
  >>> jax.vmap(gram, axis_name='workers', out_axes=None)(grads).tolist()
  [[25.0, 4.0, 3.0], [4.0, 5.0, 0.0], [3.0, 0.0, 1.0]]

  The last two workers' gradients are orthogonal.
  """
  participants = membership.Participants.of(axis_name, layout)
  contribution = finite.contribute(grads, participants)
  collected = collecting.collect_all(contribution)
  both = collected.present[:, None] & collected.present[None, :]
  grams = [jnp.where(both, gram, jnp.nan) for gram in collected.grams]
  return grams[0] if participants.layout.groups is None else jnp.stack(grams)


def pairwise_cosine(gram: jax.Array) -> jax.Array:
  """Compute the cosine G_ij/√(G_ii G_jj) of each pair of gradients.

  The cosine with a gradient of zero is NaN.

  Args:
    gram: Gram matrix, [n, n].

  >>> pairwise_cosine(jnp.array([[25., 3.], [3., 1.]]))[0, 1]
  Array(0.6, dtype=float32)
  """
  norms = jnp.sqrt(jnp.diagonal(gram))
  # Divided by one after the other, because their product may overflow.
  return gram / norms[:, None] / norms[None, :]


def combine(
  grads: optax.Updates, weights: jax.Array, axis_name: workers.AxisName
) -> optax.Updates:
  """Sum the workers' gradients with given weights: Σ w_i g_i, on each worker.

  Costs one all-reduce, in at least float32. A worker of weight zero is left
  out, even if its gradient is not finite.

  Args:
    grads: This worker's gradient.
    weights: One weight per worker, [n], the same on all workers.
    axis_name: Axis, or axes, of the workers.

  Raises:
    ValueError: While tracing, if there is not one weight per worker, if the
      gradient has already been reduced over the axis, or if a leaf is neither
      floating nor complex.

  >>> weigh = lambda g: combine(g, jnp.array([0., 2.]), 'workers')
  >>> jax.vmap(weigh, axis_name='workers', out_axes=None)(
  ...     jnp.array([[jnp.nan], [3.]])).tolist()
  [6.0]
  """
  workers.check_private(grads, axis_name)
  trees.check_floating(grads, or_complex=True)
  n = workers.num_workers(axis_name)
  if weights.shape != (n,):
    raise ValueError(f'weights of shape {weights.shape}: must be one for each '
                     f'of the {n} workers')
  own = weights[lax.axis_index(axis_name)]

  def weighted_sum(g):
    summand = jnp.where(own != 0, own * trees.widen(g), 0)
    return lax.psum(summand, axis_name).astype(g.dtype)

  return jax.tree.map(weighted_sum, grads)
