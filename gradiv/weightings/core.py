"""What a weighting is, and the plainest ones."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gradiv._common import checks


def _no_state(num_gradients: int) -> tuple[()]:
  del num_gradients
  return ()


@dataclasses.dataclass(frozen=True)
class Weighting:
  """A rule that turns the Gram matrix of n gradients into n weights.

  Called on a Gram matrix, it returns the weights: the update is Σ w_i g_i.

  Attributes:
    step: (gram [n, n], present [n], state, key) -> (weights [n], state).
      Everything is float32, `present` is bool. A gradient that is not present
      has a row and a column of zeros; its weight is not read, and the others
      get the weights that they would get without it.
    init: n -> the state before the first step; without one, ().
    of_differences: Whether the weights depend on the differences g_i − g_j
      alone and add up to one. The Gram may then be that of g_i − c, for any
      common c, from which small distances can be read without cancellation.
    num_extra: How many rows the rule needs behind those of the gradients:
      momentum, the last update, an anchor. It returns weights for them too.
    needs_key: Whether it draws random numbers.
    needs_size: Whether the state depends on n.
    equal_pair: Whether two gradients that are present never get weights that
      differ. Two workers then need no more than the all-reduce of their sum.
  """

  step: Callable[..., tuple[jax.Array, Any]]
  init: Callable[[int], Any] = _no_state
  of_differences: bool = False
  num_extra: int = 0
  needs_key: bool = False
  needs_size: bool = False
  equal_pair: bool = False

  def __call__(
    self,
    gram: jax.typing.ArrayLike,
    *,
    present: jax.typing.ArrayLike | None = None,
    key: jax.Array | None = None,
  ) -> jax.Array:
    """Weigh once, from the first state.

    Args:
      gram: [n + num_extra, n + num_extra].
      present: [n], which gradients take part; by default those whose squared
        norm is finite.
      key: For rules that draw.

    Raises:
      ValueError: Where the Gram is not square, or a key is missing.
    """
    gram = jnp.asarray(gram, jnp.float32)
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
      raise ValueError(f'gram of shape {gram.shape}: must be square')
    n = gram.shape[0] - self.num_extra
    present = (jnp.isfinite(jnp.diagonal(gram))[:n] if present is None
               else jnp.asarray(present))
    self.check_key(key)
    kept = with_extra(present, self.num_extra)
    gram = jnp.where(kept[:, None] & kept[None, :], gram, 0)
    weights, _ = self.step(gram, present, self.init(n), key)
    return jnp.where(kept, weights, 0)

  def check_key(self, key: jax.Array | None) -> None:
    """Raise ValueError where a key is needed and missing."""
    if self.needs_key and key is None:
      raise ValueError('key=None: this weighting draws random numbers and '
                       'needs a jax.random key')


def stateless(fn: Callable[..., jax.Array], **kwargs: Any) -> Weighting:
  """Make a `Weighting` of a function (gram, present) -> weights."""
  return Weighting(
    lambda gram, present, state, key: (fn(gram, present), state), **kwargs)


def with_extra(present: jax.Array, num_extra: int) -> jax.Array:
  """Extend `present` to the extra rows, which always take part."""
  return jnp.concatenate([present, jnp.ones(num_extra, bool)])


def uniform(present: jax.Array) -> jax.Array:
  """Weigh all that is present alike; zeros where nothing is.

  >>> uniform(jnp.array([True, False, True])).tolist()
  [0.5, 0.0, 0.5]
  """
  return present / jnp.maximum(present.sum(), 1).astype(jnp.float32)


def sq_distances(gram: jax.Array) -> jax.Array:
  """Read ‖g_i − g_j‖² off a Gram matrix, clamped at zero.

  >>> sq_distances(jnp.array([[1., 0.], [0., 4.]])).tolist()
  [[0.0, 5.0], [5.0, 0.0]]
  """
  squares = jnp.diagonal(gram)
  squares = jnp.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0)
  return jnp.where(jnp.eye(len(gram), dtype=bool), 0, squares)


def largest_square(gram: jax.Array) -> jax.Array:
  """Return the largest ‖g_i‖², or 1 where all are zero."""
  largest = jnp.diagonal(gram).max()
  return jnp.where(largest > 0, largest, 1)


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
  """Multiply matrices in full float32, on every device."""
  return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def mean() -> Weighting:
  """Weigh all gradients alike: w_i = 1/n.

  >>> mean()(jnp.eye(4)).tolist()
  [0.25, 0.25, 0.25, 0.25]
  """
  return stateless(lambda gram, present: uniform(present),
                   of_differences=True)


def norm_clipping(max_norm: float) -> Weighting:
  """Shorten each gradient to at most `max_norm`, then average.

  w_i = min(1, C/‖g_i‖)/n.

  >>> norm_clipping(2.)(jnp.diag(jnp.array([1., 16.]))).tolist()
  [0.5, 0.25]

  Raises:
    ValueError: Unless `max_norm` is positive and finite.
  """
  checks.positive('max_norm', max_norm)

  def weigh(gram, present):
    norms = jnp.sqrt(jnp.diagonal(gram))
    shrink = jnp.where(norms > max_norm, max_norm / norms, 1)
    return shrink * uniform(present)

  return stateless(weigh)
