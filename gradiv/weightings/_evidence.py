"""Evidence that one of n exchangeable workers is not like the others.

Take any score of the workers. While all are healthy, each of them is equally
likely to have the largest one, whatever the distribution, however it drifts. So
a bet on worker i that pays n times the stake when i is the largest is fair:

  e = 1 − λ + λ n 1[i is the largest],     E[e] = 1

with the stake λ. The Shiryaev–Roberts sum M ← (M + 1) e of such bets collects
them without knowing when a fault begins. M − t is a martingale, so at the first
step T at which the mean of the sums of all workers, scores and stakes reaches
c, E[T] ≥ c: on healthy workers, a false alarm takes at least c steps on
average.

Shin, Ramdas, Rinaldo, `E-detectors: a nonparametric framework for sequential
change detection <https://arxiv.org/abs/2203.03532>`_, 2022.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

# Small stakes find a worker that is the largest somewhat too often, large ones
# find one that always is, within few steps.
STAKES = np.array([0.05, 0.2, 0.7], np.float32)
# Scores that differ by less are equal: of parallel gradients, the cosines
# differ by rounding alone, perhaps in the same order at each step.
ROUNDING = 4e-6


def init(num_scores: int, num_workers: int) -> jax.Array:
  """Return log M before the first step, [scores, stakes, n]."""
  return jnp.full(
    (num_scores, len(STAKES), num_workers), -jnp.inf, jnp.float32)


def update(
  log_sums: jax.Array,
  scores: jax.Array,
  takes_part: jax.Array,
  limit: jax.Array,
) -> jax.Array:
  """Add the bets of one step.

  Args:
    log_sums: log M, [scores, stakes, n].
    scores: Scores of the workers, [scores, n].
    takes_part: Which workers are compared by each score, [scores, n]; there is
      no bet on the others.
    limit: log of the mean evidence at which an alarm is raised. Each sum is
      cut off where it raises one alone, so that the alarm ends some steps after
      the fault. A sum that is cut off is less, so the promise still holds.

  Returns:
    The next log M.
  """
  highest = jnp.max(jnp.where(takes_part, scores, -jnp.inf), -1, keepdims=True)
  largest = takes_part & (scores >= highest - ROUNDING)
  # Those that are equal share what is won.
  share = largest / jnp.maximum(
    largest.sum(-1, keepdims=True), 1).astype(jnp.float32)
  won = takes_part.sum(-1, keepdims=True) * share
  stakes = jnp.asarray(STAKES)[None, :, None]
  factor = 1 - stakes + stakes * won[:, None]
  factor = jnp.where(takes_part[:, None], factor, 1)
  most = limit + math.log(2 * log_sums.shape[0] * log_sums.shape[1])
  return jnp.minimum(jnp.logaddexp(log_sums, 0) + jnp.log(factor), most)


def of_workers(log_sums: jax.Array) -> jax.Array:
  """Return log of the mean of M over scores and stakes, [..., n]."""
  *_, num_scores, num_stakes, _ = log_sums.shape
  return jax.nn.logsumexp(log_sums, (-3, -2)) - math.log(
    num_scores * num_stakes)
