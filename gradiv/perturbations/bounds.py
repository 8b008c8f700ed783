"""Batch-size bounds that the mechanisms of this package are predicted to give.

Masks, noise and unbiased rounding lengthen every example's gradient more than
they lengthen the mean gradient, so that they raise the diversity. Each function
predicts B_S with the mechanism from an `Estimate` without it.

The prediction depends on which examples share a draw: 'tied' if example i draws
the same each time that it is in a batch (``update(..., example_index=i)``),
'fresh' if every use of an example draws anew, and 'shared' if the whole batch
shares one draw.

Yin et al., `Gradient Diversity: a Key Ingredient for Scalable Distributed
Learning <https://proceedings.mlr.press/v84/yin18a.html>`_, 2018.
"""

import jax
import jax.numpy as jnp

from gradiv._common import checks
from gradiv.diversity import metrics
from gradiv.diversity.estimates import Estimate

Scalar = jax.typing.ArrayLike


def drop_updates_batch_size_bound(
  estimate: Estimate, rate: Scalar, num_examples: Scalar, *,
  draws: str = 'tied',
) -> jax.Array:
  """Predict B_S if `drop_updates` masks each example's gradient.

  'tied': 1/B = (1 − p)/B_S + p/n (Yin et al. 2018, equation 10); 'fresh':
  B_S/(1 − p); 'shared': B_S.

  Args:
    estimate: Estimate for the unmasked gradients.
    rate: Rate p of dropping; rescaling by 1/(1 − p) does not matter.
    num_examples: Size n of the set that batches are drawn from, with
      replacement.
    draws: 'tied', 'fresh' or 'shared'.

  >>> e = Estimate(1., 1.)  # B_S = 2
  >>> float(drop_updates_batch_size_bound(e, 0.5, 4, draws='fresh'))
  4.0
  """
  checks.fraction('rate', rate)
  square = estimate.sq_norm + estimate.variance
  odds = rate / (1 - jnp.asarray(rate, jnp.float32))
  return _noisy_bound(estimate, odds * square, num_examples, draws,
                      shared=odds * estimate.sq_norm)


def langevin_noise_batch_size_bound(
  estimate: Estimate, stddev: Scalar, num_parameters: int,
  num_examples: Scalar, *, draws: str = 'tied',
) -> jax.Array:
  """Predict B_S if `add_langevin_noise` acts on each example's gradient.

  With M² = G + S and d parameters, 'tied': (M² + dσ²)/(G + dσ²/n) (Yin et al.
  2018, equation 11); 'fresh': (M² + dσ²)/G; 'shared': (M² + dσ²)/(G + dσ²),
  which tends to one.

  Args:
    estimate: Estimate for the gradients without noise.
    stddev: Standard deviation σ of the noise.
    num_parameters: Number d of parameters.
    num_examples: Size n of the set that batches are drawn from, with
      replacement.
    draws: 'tied', 'fresh' or 'shared'.

  >>> e = Estimate(1., 3.)  # B_S = 4
  >>> float(langevin_noise_batch_size_bound(e, 1., 6, 6))
  5.0
  """
  checks.count('num_parameters', num_parameters, 1)
  checks.at_least('stddev', stddev, 0)
  added = num_parameters * jnp.square(jnp.asarray(stddev, jnp.float32))
  return _noisy_bound(estimate, added, num_examples, draws, shared=added)


def quantized_batch_size_bound(
  estimate: Estimate, sq_norm: Scalar, num_examples: Scalar, *,
  draws: str = 'tied',
) -> jax.Array:
  """Predict B_S if each example's gradient is rounded without bias.

  'tied': 1/B = 1/n + (1/B_S − 1/n) M²/q; 'fresh': q/G. This is Yin et al.
  2018, equation 12, if q is the mean of ‖g_i‖₂‖g_i‖₁.

  Args:
    estimate: Estimate for the gradients before rounding.
    sq_norm: Mean q of the squared norms after rounding, which
      `quantized_sq_norm` predicts for each example.
    num_examples: Size n of the set that batches are drawn from, with
      replacement.
    draws: 'tied' or 'fresh'; there is no such formula for shared draws.

  >>> e = Estimate(1., 3.)  # B_S = 4
  >>> float(quantized_batch_size_bound(e, 8., 4, draws='fresh'))
  8.0
  """
  checks.at_least('sq_norm', sq_norm, 0)
  added = sq_norm - (estimate.sq_norm + estimate.variance)
  return _noisy_bound(estimate, added, num_examples, draws)


def _noisy_bound(estimate, added, num_examples, draws, shared=None):
  """Compute B_S with unbiased noise that adds `added` to every ‖g_i‖².

  `shared` is added to ‖∇F‖² if the whole batch shares one draw.
  """
  checks.at_least('num_examples', num_examples, 1)
  in_common = {'tied': added / num_examples, 'fresh': 0.}
  if shared is not None:
    in_common['shared'] = shared
  checks.choice('draws', draws, in_common)
  signal = estimate.sq_norm + in_common[draws]
  total = estimate.sq_norm + estimate.variance + added
  return 1 / metrics.fraction_of_signal(signal, total - signal)
