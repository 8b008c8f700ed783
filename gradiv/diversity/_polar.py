"""Polar factors of matrices by the iteration of Newton and Schulz.

A matrix M = U s Vᵀ is scaled so that s ≤ 1, and each step replaces s by an odd
polynomial of it, a s + b s³ + c s⁵, with products of matrices alone. With
(15, −10, 3)/8, small values grow by 15/8 a step, all stay below 1, and the
error of those near 1 is cubed, so M becomes its polar factor U Vᵀ. The nuclear
norm ⟨M, U Vᵀ⟩ = Σ s then lacks Σ s (1 − p(s/‖M‖)), which after 20 steps is
below 1e-5 ‖M‖ times the number of values: only those under 1e-5 ‖M‖ are lost.
Muon takes five steps of a polynomial in which small values grow faster, and
which does not converge: large ones end between 0.68 and 1.21.

Jordan et al., `Muon <https://kellerjordan.github.io/posts/muon/>`_, 2024; the
coefficients are the defaults of `optax.contrib.muon`.
"""

import jax
import jax.numpy as jnp
from jax import lax

_CONVERGING = (15 / 8, -10 / 8, 3 / 8)
_OF_MUON = (3.4445, -4.7750, 2.0315)


def exact(x: jax.Array) -> jax.Array:
  """Compute the polar factors of matrices [..., r, c]."""
  return newton_schulz(x, _CONVERGING, 20)


def muon(x: jax.Array) -> jax.Array:
  """Compute what Muon takes for the polar factors."""
  return newton_schulz(x, _OF_MUON, 5)


def newton_schulz(
  x: jax.Array, coefficients: tuple[float, float, float], steps: int
) -> jax.Array:
  """Apply the polynomial to the singular values of x / ‖x‖, `steps` times."""
  a, b, c = coefficients
  norm = jnp.sqrt(jnp.sum(jnp.square(x), (-1, -2), keepdims=True))
  x = x / jnp.where(norm == 0, 1., norm)
  for _ in range(steps):
    square = outer(x)
    both = b * square + c * _times(square, square)
    x = a * x + (_times(both, x) if _is_wide(x) else _times(x, both))
  return x


def outer(x: jax.Array) -> jax.Array:
  """Compute x xᵀ or xᵀ x, whichever is smaller: [..., s, s]."""
  t = jnp.swapaxes(x, -1, -2)
  return _times(x, t) if _is_wide(x) else _times(t, x)


def trace_of_root(x: jax.Array) -> jax.Array:
  """Compute tr x^½ of positive matrices [..., s, s], added up: []."""
  # Rounding may take eigenvalues of zero below zero.
  return jnp.sum(jnp.sqrt(jnp.maximum(jnp.linalg.eigvalsh(x), 0.)))


def _is_wide(x):
  return x.shape[-2] <= x.shape[-1]


def _times(x, y):
  return jnp.matmul(x, y, precision=lax.Precision.HIGHEST)
