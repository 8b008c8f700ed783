"""Counters in states, which stop at the largest integer."""

import jax
import jax.numpy as jnp


def increment(
  count: jax.Array, by: jax.typing.ArrayLike = 1
) -> jax.Array:
  """Add to a counter; at the largest integer it stays instead of wrapping.

  Like `optax.safe_increment`, but for any amount and with an array as result.

  >>> increment(jnp.int32(2**31 - 1)).tolist()
  2147483647
  >>> increment(jnp.int32(3), jnp.array([True, False])).tolist()
  [4, 3]

  Args:
    count: Integer array.
    by: Amount to add, at least 0, of integers or of booleans.
  """
  most = jnp.iinfo(count.dtype).max
  return jnp.where(count <= most - by, count + by, most)
