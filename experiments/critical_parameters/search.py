"""Counts the steps of many runs and rates until each keeps a target."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Steps between two checks of whether the loop may end.
CHUNK = 32
# The loop ends after this many times the steps of the first rate whose runs all
# reached the target: a slower rate would not be chosen.
PATIENCE = 1.5
NEVER = np.int32(2**31 - 1)


def padded(num_steps: int) -> int:
  """Round a number of steps up to whole chunks."""
  return -(-num_steps // CHUNK) * CHUNK


def first_steps(
  advance: Callable[[jax.Array, Any], tuple[Any, jax.Array]], state: Any,
  shape: tuple[int, int], staleness: jax.Array, last: int,
) -> jax.Array:
  """Count steps to the first of τ + 1 steps in a row that keep the target.

  A rate that is far too large passes by the solution, so that reaching the
  target once is not enough.

  Args:
    advance: Takes the step and the state; returns the next state, and which
      [rates, runs] are at the target.
    state: The first one.
    shape: (rates, runs).
    staleness: τ.
    last: The most steps, in whole chunks.

  Returns:
    Steps [rates, runs]; `NEVER` where the loop ended before.
  """
  def one(carry, _):
    t, state, streak, first = carry
    state, reached = advance(t, state)
    streak = jnp.where(reached, streak + 1, 0)
    stayed = (streak > staleness) & (first == NEVER)
    return (t + 1, state, streak, jnp.where(
      stayed, t + 1 - staleness, first)), None

  def goes_on(carry):
    t, *_, first = carry
    return (t < last) & (t < PATIENCE * first.max(1).min())

  return lax.while_loop(
    goes_on, lambda carry: lax.scan(one, carry, length=CHUNK)[0],
    (jnp.int32(0), state, jnp.zeros(shape, jnp.int32), jnp.full(shape, NEVER))
  )[-1]


def finite(first: jax.Array, max_steps: int) -> np.ndarray:
  """Return steps as floats, infinite beyond `max_steps`."""
  first = np.asarray(first, float)
  return np.where(first > max_steps, np.inf, first)
