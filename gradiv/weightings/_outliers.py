"""How far each of n gradients is from the others, in length and direction."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradiv.weightings import _evidence

# Steps in a window of the records.
WINDOW = 512
NUM_SCORES = 4


class Seen(NamedTuple):
  """What is seen of n gradients in one step.

  Attributes:
    cosine: Cosine of each gradient and the mean direction of the others, [n];
      NaN for one that is absent.
    norm: Norm over the median, [n]; likewise.
    scores: How much longer and shorter (in the log of the squared norm), lower
      and higher in cosine each is than the median, [4, n].
    takes_part: Which gradients have scores, [4, n].
  """

  cosine: jax.Array
  norm: jax.Array
  scores: jax.Array
  takes_part: jax.Array


def measure(gram: jax.Array, present: jax.Array) -> Seen:
  """Compare n gradients, of Gram matrix [n, n].

  >>> seen = measure(jnp.array([[4., 1., -2.], [1., 1., 0.], [-2., 0., 4.]]),
  ...                jnp.ones(3, bool))
  >>> seen.norm.tolist()
  [1.0, 0.5, 1.0]
  >>> [round(x, 2) for x in seen.cosine.tolist()]  # −1/2 + 1/2 = 0, over √2
  [0.0, 0.5, -0.29]
  """
  tiny = jnp.finfo(jnp.float32).tiny
  squares = jnp.diagonal(gram)
  log = jnp.where(present, jnp.log(jnp.maximum(squares, tiny)), jnp.nan)
  longer = log - jnp.nanmedian(log)
  cosine = jnp.where(present, _leave_one_out(gram), jnp.nan)
  lower = jnp.nanmedian(cosine) - cosine
  # Of two, none is the odd one.
  takes_part = jnp.tile(present & (present.sum() > 2), (NUM_SCORES, 1))
  scores = jnp.stack([longer, -longer, lower, -lower])
  return Seen(cosine, jnp.exp(longer / 2), jnp.where(takes_part, scores, 0),
              takes_part)


def _leave_one_out(gram):
  """Compute the cosines with the mean direction of the others, [n]."""
  norms = jnp.sqrt(jnp.diagonal(gram))
  norms = jnp.where(norms > 0, norms, jnp.inf)
  # A direction counts once, however long its gradient is: one that is 10⁶
  # times too long must not make all others look wrong.
  cosines = gram / norms[:, None] / norms[None, :]
  own = jnp.diagonal(cosines)
  rows = cosines.sum(1)
  others = cosines.sum() - 2 * rows + own
  return (rows - own) / jnp.sqrt(jnp.where(others > 1e-6, others, jnp.inf))


def no_records() -> jax.Array:
  """Return the records before the first step, [4, 2]: none can be beaten."""
  return jnp.full((NUM_SCORES, 2), jnp.inf, jnp.float32).at[:, 1].set(0)


def find_jumps(
  seen: Seen, records: jax.Array, count: jax.Array, factor: jax.typing.ArrayLike
) -> tuple[jax.Array, jax.Array]:
  """Tell whose scores are `factor` times the record; return the next records.

  A score counts up to twice the record, so that one fault hides the next for a
  factor of two at most, and the records still follow training where it goes.
  """
  record = jnp.maximum(records.max(1, keepdims=True), _evidence.ROUNDING)
  jumped = jnp.any(seen.scores > factor * record, axis=0)
  highest = jnp.minimum(seen.scores, 2 * record).max(1)
  begins = count % WINDOW == 0
  former = jnp.where(begins & (count > 0), records[:, 1], records[:, 0])
  now = jnp.maximum(jnp.where(begins, 0, records[:, 1]), highest)
  return jumped, jnp.stack([former, now], axis=1)
