"""Decide the weights of a step, and measure what was decided."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradiv import weightings
from gradiv.aggregation import gram as gram_lib


class Decision(NamedTuple):
  """Weights, and three numbers about them, as `AggregateState` has them."""

  weights: jax.Array
  num_agreed: jax.Array
  effective_size: jax.Array
  mean_cosine: jax.Array


def decide(
  rule: weightings.Weighting,
  gram: jax.Array,
  present: jax.Array,
  state: Any,
  key: jax.Array | None,
) -> tuple[Decision, Any]:
  """Turn one Gram matrix into weights.

  Args:
    rule: The weighting.
    gram: Gram matrix, [n + k, n + k], with k extra rows last.
    present: Which workers take part, [n].
    state: State of the weighting.
    key: Key for a weighting that draws.

  Returns:
    The decision and the next state of the weighting.
  """
  weights, state = rule.step(gram, present, state, key)
  n = len(present)
  kept = weightings.with_extra(present, rule.num_extra)
  weights = jnp.where(kept, weights, 0).astype(jnp.float32)
  own = weights[:n]
  squares = jnp.sum(own**2)
  effective_size = jnp.where(
    squares > 0, own.sum()**2 / jnp.where(squares > 0, squares, 1), 0)
  # The Gram matrix of differences does not know where the origin is.
  mean_cosine = (jnp.float32(jnp.nan) if rule.of_differences
                 else _mean_cosine(gram[:n, :n]))
  return Decision(weights, jnp.sum(own != 0).astype(jnp.int32),
                  effective_size, mean_cosine), state


def decide_by_group(
  rule: weightings.Weighting,
  groups: np.ndarray,
  grams: Sequence[jax.Array],
  present: jax.Array,
  states: Any,
  key: jax.Array | None,
) -> tuple[Decision, Any]:
  """Do as `decide` for some groups, along a leading axis [k].

  Every group draws with a key of its own.

  Args:
    rule: The weighting.
    groups: Indices of the groups, [k].
    grams: Their Gram matrices.
    present: Which workers take part, [n].
    states: States of the weighting for all groups.
    key: Key for a weighting that draws.
  """
  keys = None if key is None else jax.vmap(jax.random.fold_in, (None, 0))(
    key, groups)
  each = lambda gram, state, key: decide(rule, gram, present, state, key)
  own = jax.tree.map(lambda x: x[groups], states)
  return jax.vmap(each)(jnp.stack(grams), own, keys)


def _mean_cosine(gram):
  cosines = gram_lib.pairwise_cosine(gram)
  # A gradient of zero has no direction to compare.
  pairs = jnp.isfinite(cosines) & ~jnp.eye(len(gram), dtype=bool)
  return jnp.where(pairs, cosines, 0).sum() / pairs.sum()
