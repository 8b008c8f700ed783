"""Arguments that several rules treat alike."""

import numbers

import jax
import jax.numpy as jnp


def as_float(value: jax.typing.ArrayLike) -> float | jax.Array:
  """Convert an argument to a number for arithmetic in float32.

  A Python or NumPy number becomes a Python float, so that arithmetic among
  constants keeps double precision. An array, which a schedule or
  `optax.inject_hyperparams` passes, becomes float32, so that the carry of a
  loop keeps its dtype.
  """
  if isinstance(value, numbers.Real):
    return float(value)
  return jnp.asarray(value, jnp.float32)


def check_enough(
  n: int,
  least: int,
  *,
  num_byzantine: int,
  num_selected: int | None = None,
  num_neighbors: int | None = None,
) -> None:
  """Raise ValueError if a rule gets fewer than `least` gradients."""
  if n < least:
    given = dict(num_byzantine=num_byzantine, num_selected=num_selected,
                 num_neighbors=num_neighbors)
    given = ', '.join(f'{k}={v}' for k, v in given.items() if v is not None)
    raise ValueError(f'{given}: n={n} gradients are too few, must be at '
                     f'least {least}')
