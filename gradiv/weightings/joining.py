"""How an aggregate of gradients that agree takes in one more.

`agreement` applies these to weights on the Gram matrix, and
`gradiv.accumulate_by_agreement` to the gradients of successive micro-steps.
"""

import jax
import jax.numpy as jnp


def allowed_distance(
  limit: jax.Array, sum_squares: jax.typing.ArrayLike, count_aware: bool
) -> jax.Array:
  """Compute how far a gradient may be from an aggregate Σ a_i g_i.

  >>> # The mean of four gradients is less noisy, so the limit is stricter.
  >>> allowed_distance(jnp.float32(0.75), 1 / 4, True).round(2).item()
  0.6200000047683716

  Args:
    limit: τ, the cosine distance allowed between two single gradients.
    sum_squares: Σ a_i². Its inverse is the number of gradients that the
      aggregate counts for.
    count_aware: Whether to lower the limit accordingly; see `agreement`.
  """
  if not count_aware:
    return limit
  count = 1 / sum_squares
  cosine = jnp.maximum(1 - limit, 0)
  scaled = cosine * jnp.sqrt(count / (1 + (count - 1) * cosine))
  return jnp.where(limit < 1, 1 - scaled, limit)


def joining_weights(
  combine: str, size: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Return the weights of the aggregate and of a gradient that joins it.

  >>> [w.item() for w in joining_weights('running_mean', jnp.int32(3))]
  [0.75, 0.25]

  Args:
    combine: Way to combine; see `agreement`.
    size: Number of gradients in the aggregate so far; may be 0.
  """
  size = size.astype(jnp.float32)
  if combine == 'halving':
    # The first gradient becomes the aggregate.
    return jnp.where(size > 0, 0.5, 0.), jnp.where(size > 0, 0.5, 1.)
  return size / (size + 1), 1 / (size + 1)
