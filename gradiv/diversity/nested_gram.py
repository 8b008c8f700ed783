"""Moments of gradients in clusters, from the inner products of gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradiv._common import checks
from gradiv.diversity.nested import NestedMoments


def nested_moments(
  gram: jax.Array,
  clusters: Any,
  *,
  num_clusters: int | None = None,
  weights: jax.Array | None = None,
) -> NestedMoments:
  """Compute the `NestedMoments` of gradients from their inner products.

  Use it to tell how much of the noise of a batch comes from its prompts, and
  how much from the rollouts of each: the inner products of the examples come
  from `example_gram`, those of workers from `worker_gram`.

  Args:
    gram: Inner products ⟨g_i, g_j⟩: [n, n], or [groups, n, n]. Rows of NaN, as
      `example_gram` has them for masked examples, are left out.
    clusters: The cluster of each gradient, [n] integers in 0 ... K − 1.
    num_clusters: K, which must be known; the largest number in `clusters` plus
      one by default, if they are.
    weights: w_ij, [n]: units, such as tokens, behind each gradient; 1 by
      default, 0 leaves one out.

  Returns:
    The `NestedMoments`, for `nested_estimate`. As differences of inner
    products, they are known to about 1e-6 of the largest ‖g_i‖².

  Raises:
    ValueError: If shapes do not fit, a known cluster is out of range, or a
      known weight is negative or not finite.

  >>> import gradiv
  >>> g = jnp.array([[1.], [3.], [5.], [7.]])
  >>> moments = nested_moments(g @ g.T, [0, 0, 1, 1])
  >>> moments.within.tolist()  # 1² + 1² around 2, and around 6
  [2.0, 2.0]
  >>> moments.sq_deviation.tolist()  # of 2 and 6 from 4
  [4.0, 4.0]
  >>> estimate = gradiv.nested_estimate(moments)
  >>> [float(x) for x in estimate]  # 4² − 7/2 − 2/4; 7; 4/2
  [12.0, 7.0, 2.0]
  """
  n = jnp.shape(gram)[-1]
  clusters, num = _check(gram, clusters, num_clusters, weights, n)
  w = jnp.ones(n, jnp.float32) if weights is None else jnp.asarray(
    weights, jnp.float32)
  fn = lambda gram: _of_gram(gram, clusters, num, w)
  return jax.vmap(fn)(gram) if jnp.ndim(gram) == 3 else fn(gram)


def _of_gram(gram, clusters, num_clusters, w):
  """Compute the moments from [n, n] and the weights [n]."""
  squares = jnp.diagonal(gram)
  # Of NaN gradients the whole row is NaN. Their own square says so.
  w = jnp.where(jnp.isnan(squares), 0, w)
  counts = w > 0
  gram = jnp.where(counts[:, None] & counts[None, :], gram, 0.)
  member = clusters[None, :] == jnp.arange(num_clusters)[:, None]
  shares = member * w[None, :]
  weight = jnp.sum(shares, 1)
  there = weight > 0
  shares = shares / jnp.where(there, weight, 1.)[:, None]
  exact = lambda *args: jnp.einsum(*args, precision=lax.Precision.HIGHEST)
  of_means = exact('kn,nm,lm->kl', shares, gram, shares)
  own = jnp.diagonal(of_means)
  p = weight / jnp.sum(weight)
  with_mean = exact('kl,l->k', of_means, p)
  of_mean = jnp.sum(p * with_mean)
  squares = exact('kn,n->k', shares, jnp.where(counts, squares, 0.))
  deviation = jnp.maximum(own - 2 * with_mean + of_mean, 0.)
  return NestedMoments(
    num_members=jnp.sum(member & counts[None, :], 1, dtype=jnp.float32),
    weight=weight,
    within=jnp.maximum(weight * (squares - own), 0.),
    sq_deviation=jnp.where(there, deviation, 0.),
    along=jnp.where(there, with_mean - of_mean, 0.),
    sq_norm_of_mean=of_mean)


def _check(gram, clusters, num_clusters, weights, n):
  if jnp.ndim(gram) < 2 or jnp.shape(gram)[-2] != n:
    raise ValueError(f'gram of shape {jnp.shape(gram)}: must be [n, n] or '
                     '[groups, n, n]')
  is_known = not isinstance(clusters, jax.core.Tracer)
  clusters = np.asarray(clusters) if is_known else clusters
  if clusters.shape != (n,) or not jnp.issubdtype(clusters.dtype, jnp.integer):
    raise ValueError(
      f'clusters of shape {clusters.shape} and dtype {clusters.dtype}: must be '
      f'one integer for each of the {n} gradients')
  if num_clusters is None:
    if not is_known:
      raise ValueError('num_clusters=None: must be given where clusters are '
                       'traced')
    num_clusters = int(clusters.max(initial=0)) + 1
  checks.count('num_clusters', num_clusters, 1)
  if is_known:
    checks.within('clusters', clusters, 0, num_clusters - 1)
  if weights is not None:
    if jnp.shape(weights) != (n,):
      raise ValueError(f'weights of shape {jnp.shape(weights)}: must be ({n},)')
    checks.not_negative('weights', jnp.asarray(weights))
  return clusters, num_clusters
