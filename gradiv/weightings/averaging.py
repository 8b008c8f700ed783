"""The mean, and the mean of clipped gradients."""

import jax
import jax.numpy as jnp

from gradiv._common import checks
from gradiv.weightings import _numbers, weighting


def mean() -> weighting.Weighting:
  """Average all gradients.

  Use it as the baseline against which to compare the other rules. To average
  and nothing else, `gradiv.aggregate_by_mean` is cheaper.

  w_i = 1/n over the n gradients that are present.

  >>> mean()(jnp.eye(4)).tolist()
  [0.25, 0.25, 0.25, 0.25]
  """
  return weighting.stateless(
    lambda gram, present: weighting.uniform(present), of_differences=True)


def norm_clipping(max_norm: jax.typing.ArrayLike) -> weighting.Weighting:
  """Shorten each gradient to a maximum norm, then average.

  Use it when the lengths of gradients are heavy-tailed, or to bound what any
  single worker or example can contribute.

  w_i = min(1, C/‖g_i‖)/n.

  >>> # Lengths 1 and 4: the second one is halved.
  >>> norm_clipping(2.)(jnp.diag(jnp.array([1., 16.]))).tolist()
  [0.5, 0.25]

  Args:
    max_norm: C, positive and finite.
  """
  checks.positive('max_norm', max_norm, one=True)
  max_norm = _numbers.as_float(max_norm)

  def weigh(gram, present):
    norms = jnp.sqrt(jnp.diagonal(gram))
    shrink = jnp.where(norms > max_norm, max_norm / norms, 1)
    return shrink * weighting.uniform(present)

  return weighting.stateless(weigh)
