"""AdaCons: average directions, weighted by how far they agree with the mean."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradiv._common import checks, counting
from gradiv.weightings import _numbers, geometry, weighting

# A sum of coefficients below this fraction of their magnitudes is rounding.
_CANCELED = 1e-6


class AdaConsState(NamedTuple):
  """State of `adacons`.

  Attributes:
    count: Number of steps so far in which a gradient was present, int32.
    averages: Averages of the coefficients by rank, [n], float32.
  """

  count: jax.Array
  averages: jax.Array


def adacons(decay: jax.typing.ArrayLike = 0.99) -> weighting.Weighting:
  """Average the directions of the gradients by their projection on the mean.

  Use it when the lengths of gradients vary but their directions can be
  trusted. The update has length one or less if no gradient opposes the mean,
  regardless of the lengths; tune the learning rate for that. If some do oppose
  it, the bound is Σ|α|/Σα.

  The coefficients α_i = g_i·ḡ/‖g_i‖ are sorted, then averaged over the steps
  rank by rank: m ← decay m + (1 − decay) sort(α), beginning with the first
  sort(α). With α_i replaced by the m of its rank, w_i = α_i/(‖g_i‖ Σ α).

  >>> # α = 1 and 1/2: fractions 2/3 and 1/3, divided by the lengths 2 and 1.
  >>> adacons()(jnp.diag(jnp.array([4., 1.]))).round(3).tolist()
  [0.3330000042915344, 0.3330000042915344]

  If only p < n gradients are present, ranks are read as quantiles: the p
  values are stretched to n, and m is read at p points, both linearly. If Σ α is
  not positive, all directions count alike. A zero gradient gets the weight 0.

  Args:
    decay: Fraction of the averages that stays at each step, in [0, 1). 0 makes
      a rule without memory.

  Returns:
    A weighting with an `AdaConsState`, which needs to know n.

  The published code gives worker i the average at position sort⁻¹(i) instead
  of that at its rank, which differs from n = 3 on. Choukroun et al., `Adaptive
  Consensus Gradients Aggregation for Scaled Distributed Training
  <https://arxiv.org/abs/2411.03742>`_, 2024.
  """
  checks.fraction('decay', decay, one=True)
  decay = _numbers.as_float(decay)

  def step(gram, present, state, key):
    del key
    norms = jnp.sqrt(jnp.diagonal(gram))
    alive = present & (norms > 0)
    inverse = jnp.where(alive, 1 / jnp.where(alive, norms, 1), 0)
    given = jnp.maximum(present.sum(), 1)
    alphas, state = _smooth(
      inverse * gram.sum(1) / given, present, state, decay)
    total, size = alphas.sum(), jnp.abs(alphas).sum()
    sound = total > _CANCELED * size
    fractions = alphas / jnp.where(sound, total, 1)
    directions = jnp.where(sound, fractions, weighting.uniform(alive))
    return directions * inverse, state

  def init(num_gradients):
    return AdaConsState(jnp.zeros((), jnp.int32),
                        jnp.zeros(num_gradients, jnp.float32))

  return weighting.Weighting(step, init, needs_size=True)


def _smooth(alphas, present, state, decay):
  """Average the coefficients of present gradients over the steps, by rank."""
  n, given, first = len(alphas), present.sum(), state.count == 0
  order = jnp.where(present, alphas, jnp.inf)
  ranks = geometry.ranks(order)
  order = jnp.where(jnp.arange(n) < given, jnp.sort(order), 0)
  stretch = (given - 1) / max(n - 1, 1)
  stretched = _interpolate(order, jnp.arange(n) * stretch)
  # A gradient that is alone is compared with the median.
  places = jnp.where(given > 1, ranks / jnp.where(given > 1, stretch, 1),
                     (n - 1) / 2)
  blend = lambda old, new: jnp.where(
    first, new, decay * old + (1 - decay) * new)
  smooth = blend(_interpolate(state.averages, places), alphas)
  averages = jnp.where(
    given > 0, blend(state.averages, stretched), state.averages)
  averages = averages.astype(state.averages.dtype)
  return jnp.where(present, smooth, 0), AdaConsState(
    counting.increment(state.count, given > 0), averages)


def _interpolate(values, places):
  """Read `values` at fractional places, linearly."""
  places = jnp.clip(places, 0, len(values) - 1)
  below = jnp.floor(places).astype(jnp.int32)
  above = jnp.minimum(below + 1, len(values) - 1)
  fraction = places - below
  return (1 - fraction) * values[below] + fraction * values[above]
