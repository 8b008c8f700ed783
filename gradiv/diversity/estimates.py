"""Unbiased estimates from a sample of gradients.

Two kinds of statement are kept apart. A *plug-in* value describes the sample
at hand, as `gradient_diversity` does; for a single mini-batch it mostly
measures how large the batch is. An *estimate* is unbiased for the distribution
that the sample was drawn from: G = ‖∇F‖² and S = tr Σ, with Σ the covariance
of the gradient of one example. Average estimates over steps before taking a
ratio of them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradiv._common import checks
from gradiv.diversity.moments import Moments


class Estimate(NamedTuple):
  """Unbiased estimates; from a single step, either may be far off.

  Attributes:
    sq_norm: G, the estimate of ‖∇F‖². Can be negative before averaging, and is
      kept so.
    variance: S, the estimate of tr Σ, for the gradient of one example.
  """

  sq_norm: jax.Array
  variance: jax.Array


def estimate(
  moments: Moments, *, num_examples: jax.typing.ArrayLike | None = None
) -> Estimate:
  """Estimate ‖∇F‖² and tr Σ without bias from a sample of gradients.

  S = b/(n−1) Σ ‖g_i − ḡ‖² and G = ‖ḡ‖² − S/(n b).

  Args:
    moments: Moments of n gradients. For n = 1 both estimates are NaN, because
      a single gradient has no spread.
    num_examples: Size N of the data set, if the n·b examples were drawn from
      it without replacement. G and S are then those of the finite set: G + S/N
      and (1 − 1/N) S of the above. They are exact if the sample is the whole
      set.

  Raises:
    ValueError: If `num_examples` is less than n·b, where both are known.

  >>> e = estimate(Moments(2., 1., 4., 1.))  # two gradients of one example each
  >>> float(e.sq_norm), float(e.variance)
  (3.0, 2.0)
  """
  n, b, sq_norm_of_mean, deviation = moments
  if num_examples is not None:
    _check_drawn(n, b, num_examples)
  freedom = jnp.where(jnp.equal(n, 1), jnp.nan, n - 1.)
  variance = b * n / freedom * deviation
  sq_norm = sq_norm_of_mean - variance / (n * b)
  if num_examples is None:
    return Estimate(sq_norm, variance)
  fraction = 1 / jnp.asarray(num_examples, jnp.float32)
  return Estimate(sq_norm + variance * fraction, variance * (1 - fraction))


def _check_drawn(n, b, num_examples):
  """Raise ValueError if more examples were drawn than there are, if known."""
  checks.at_least('num_examples', num_examples, 1)
  if any(isinstance(x, jax.core.Tracer) for x in (n, b, num_examples)):
    return
  # In NumPy: under `jit`, even known numbers become tracers in a jnp function.
  drawn = np.asarray(n, float) * np.asarray(b, float)
  if np.any(np.asarray(num_examples) < drawn * (1 - 1e-6)):
    raise ValueError(
      f'num_examples={num_examples!r}: must be at least the {np.max(drawn):g} '
      'examples that were drawn from them without replacement'
    )
