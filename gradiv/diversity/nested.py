"""Gradients that come in clusters: how much they differ within and between.

Several rollouts of a prompt, tokens of a sequence, sequences of a domain or
devices of a host resemble each other more than others do. Member j of cluster
i, with w_ij units (examples, or tokens) behind it, has the gradient

  g_ij = ∇F + a_i + e_ij,    E‖a_i‖² = S_b,    E‖e_ij‖² = S_w / w_ij,

all parts of mean zero and uncorrelated. With W_i = Σ_j w_ij, W = Σ W_i, ḡ_i and
ḡ the weighted means, N members in K clusters and C = Σ W_i²/W:

  E Σ_ij w_ij ‖g_ij − ḡ_i‖² = (N − K) S_w
  E Σ_i W_i ‖ḡ_i − ḡ‖²      = (K − 1) S_w + (W − C) S_b
  E ‖ḡ‖²                    = ‖∇F‖² + S_b C/W + S_w/W

In the first, each w_ij ‖e_ij‖² is S_w and W_i ‖ē_i‖², which is taken off once
per cluster, is S_w as well. In the second, W_i ‖a_i + ē_i‖² adds up to W S_b +
K S_w, and W ‖ā + ē‖² = C S_b + S_w is taken off. Solved from the top, these are
unbiased estimates: the analysis of variance of a one-way random-effects model
with unequal cluster sizes, summed over coordinates (Searle, Casella and
McCulloch, *Variance Components*, 1992). Like all unbiased estimates they can be
negative, and are kept so.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradiv._common import checks
from gradiv.diversity.estimates import Estimate

Scalar = jax.typing.ArrayLike


class NestedMoments(NamedTuple):
  """Second moments of a sample of gradients in K clusters.

  With groups of leaves, all fields have a leading axis [groups].

  Attributes:
    num_members: [K], number of gradients in each cluster; 0 if it is empty.
    weight: [K], W_i, the units behind each cluster.
    within: [K], Σ_j w_ij ‖g_ij − ḡ_i‖².
    sq_deviation: [K], ‖ḡ_i − ḡ‖².
    along: [K], ⟨ḡ_i − ḡ, ḡ⟩.
    sq_norm_of_mean: ‖ḡ‖².
  """

  num_members: jax.Array
  weight: jax.Array
  within: jax.Array
  sq_deviation: jax.Array
  along: jax.Array
  sq_norm_of_mean: jax.Array


class NestedEstimate(NamedTuple):
  """Unbiased estimates; average them over steps before taking a ratio.

  Attributes:
    sq_norm: G, the estimate of ‖∇F‖².
    between: S_b, the variance of a cluster's own gradient.
    within: S_w, the variance of one unit around the gradient of its cluster.
  """

  sq_norm: jax.Array
  between: jax.Array
  within: jax.Array

  def of_clusters(self, num_members: Scalar) -> Estimate:
    """Return G and S for a batch that is counted in clusters.

    S = S_b + S_w/m is the variance of the mean of one cluster of m members
    (units). `gradiv.batch_size_bound` of it is a number of clusters.

    >>> estimate = NestedEstimate(1., 2., 8.).of_clusters(num_members=4)
    >>> float(estimate.variance)  # 2 + 8/4
    4.0
    """
    checks.positive('num_members', num_members)
    return Estimate(self.sq_norm, self.between + self.within / num_members)

  def best_num_members(self, cost: Scalar) -> jax.Array:
    """Compute the number of members per cluster that is worth most.

    √(cost · S_w / S_b): at a given price it makes the variance of the mean,
    (S_b + S_w/m)/K, smallest, if K clusters of m members cost K (cost + m).
    It is at least 1, and infinite if clusters do not differ.

    Args:
      cost: What a new cluster costs, in members: a prompt to be processed,
        over a rollout of it; above 0.

    >>> float(NestedEstimate(1., 2., 8.).best_num_members(cost=9.))
    6.0
    """
    checks.positive('cost', cost)
    between, within = (jnp.maximum(x, 0.) for x in self[1:])
    best = jnp.sqrt(cost * within / jnp.where(between > 0, between, 1.))
    best = jnp.where(between > 0, jnp.maximum(best, 1.), jnp.inf)
    unknown = jnp.isnan(self.between) | jnp.isnan(self.within)
    return jnp.where(unknown, jnp.nan, best)


def nested_estimate(moments: NestedMoments) -> NestedEstimate:
  """Estimate ‖∇F‖² and the variances within and between clusters.

  Unbiased for clusters of any size and any weights; see the formulas at the top
  of the module. NaN if there is but one cluster, or none with two members. For
  an example see `nested_moments`.

  Args:
    moments: What `nested_moments` or `worker_nested_moments` returned.
  """
  n, weight, within, deviation, _, of_mean = moments
  total = lambda x: jnp.sum(x, -1)
  return solve(
    total(n), total(n > 0), total(weight), total(weight**2), total(within),
    total(weight * deviation), of_mean)


def solve(
  members: jax.Array, clusters: jax.Array, weight: jax.Array,
  weights_sq: jax.Array, within: jax.Array, between: jax.Array,
  of_mean: jax.Array,
) -> NestedEstimate:
  """Solve the three expectations for ‖∇F‖², S_b and S_w.

  Args:
    members: N.
    clusters: K.
    weight: W.
    weights_sq: Σ W_i².
    within: Σ_ij w_ij ‖g_ij − ḡ_i‖².
    between: Σ_i W_i ‖ḡ_i − ḡ‖².
    of_mean: ‖ḡ‖².
  """
  or_nan = lambda x: jnp.where(x > 0, x, jnp.nan)
  common = weights_sq / or_nan(weight)
  s_w = within / or_nan(members - clusters)
  # Of one cluster, W − C is a rounding error.
  spread = jnp.where(clusters > 1, weight - common, jnp.nan)
  s_b = (between - (clusters - 1) * s_w) / spread
  return NestedEstimate(
    of_mean - (s_b * common + s_w) / weight, s_b, s_w)
