"""Gradients that are written out, a row for each example."""

import functools
import math

import jax
import jax.numpy as jnp

from gradiv._common import trees
from gradiv.per_example._engine import squares as squares_of
from gradiv.per_example._engine.chunks import add_up, in_chunks


def keep_some(x: jax.Array, keep: jax.Array) -> jax.Array:
  """Replace the rows [n, ...] that are not kept by zeros."""
  if not jnp.issubdtype(x.dtype, jnp.inexact):
    return x
  keep = keep.reshape(-1, *(1,) * (x.ndim - 1))
  return jnp.where(keep, x, jnp.zeros((), x.dtype))


@functools.partial(jax.jit, static_argnums=2)
def sums(
  rows: jax.Array, scale: jax.Array | None, limits: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
  """Compute Σ g_i times `scale`, and ‖g_i‖², of gradients [n, ...].

  The limits are those of `costs`, which choices rest on.
  """
  del limits

  def part(chunk):
    return scaled(add_up(chunk['g']), scale), squares_of.of_rows(chunk['g'])

  return in_chunks(part, {'g': rows}, math.prod(rows.shape[1:]))


def scaled(x: jax.Array, scale: jax.Array | None) -> jax.Array:
  """Multiply by a number, if there is one."""
  return x if scale is None else x * scale


def squared(x: jax.Array, metric: jax.Array | None) -> jax.Array:
  """Square each element, in at least float32, and weigh it."""
  square = jnp.square(trees.widen(x))
  return square if metric is None else square * metric


def weigh(x: jax.Array, weights: jax.Array) -> jax.Array:
  """Multiply rows by weights; zero removes a row even if it is NaN."""
  weights = weights.reshape(-1, *(1,) * (x.ndim - 1))
  return jnp.where(
    weights != 0, trees.widen(x) * weights, 0).astype(x.dtype)
