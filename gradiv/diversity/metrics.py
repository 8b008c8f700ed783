"""What the moments of a sample of gradients say: one formula a function.

Two kinds of statement are kept apart. A *plug-in* value describes the sample
at hand, as `gradient_diversity` does; of one mini-batch it measures mostly
how large the batch is. An *estimate* is unbiased for what lies behind the
sample: ‖∇F‖² and the trace of the covariance Σ of one example's gradient.

With G = ‖∇F‖² and S = tr Σ, the batch-size bound of Yin et al., the noise
scale of McCandlish et al. and the critical parameter M of Stich et al. are one
number: B_S = 1 + S/G = 1 + B_simple = 1 + M. Near a stationary point it grows
without limit; its inverse G/(G + S) stays in [0, 1].

What is not to be had (one gradient alone has no spread) is NaN, never a
division by zero. Averages of `Estimate` over steps come before any ratio.

Yin et al., `Gradient Diversity: a Key Ingredient for Scalable Distributed
Learning <https://proceedings.mlr.press/v84/yin18a.html>`_, 2018.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradiv._common import checks
from gradiv.diversity.moments import Moments

Scalar = jax.typing.ArrayLike


class Estimate(NamedTuple):
  """Unbiased estimates; of a single step either may be far off.

  Attributes:
    sq_norm: G, of ‖∇F‖². May be negative before averaging, and is kept so.
    variance: S, of tr Σ, of the gradient of one example.
  """

  sq_norm: jax.Array
  variance: jax.Array


def gradient_diversity(moments: Moments) -> jax.Array:
  """Compute the plug-in diversity Δ = Σ ‖g_i‖² / ‖Σ g_i‖² of the sample.

  From 1/n, where all gradients are equal (all zero among them), through 1,
  where they are orthogonal, to infinity, where they cancel. Yin et al. 2018,
  Definition 4.

  >>> float(gradient_diversity(Moments(4., 1., 2., 0.)))
  0.25
  """
  return 1 / coherence(moments)


def coherence(moments: Moments) -> jax.Array:
  """Compute 1/Δ = ‖Σ g_i‖² / Σ ‖g_i‖², in [0, n].

  The m-coherence of Chatterjee and Zielinski, `Making Coherence Out of Nothing
  At All <https://arxiv.org/abs/2008.01217>`_, 2020; finite where the diversity
  is not.
  """
  return moments.num_gradients * _share(
    moments.sq_norm_of_mean, moments.mean_sq_deviation
  )


def estimate(
  moments: Moments, *, num_examples: Scalar | None = None
) -> Estimate:
  """Estimate ‖∇F‖² and tr Σ without bias from a sample of gradients.

  S = b/(n−1) Σ ‖g_i − ḡ‖² and G = ‖ḡ‖² − S/(n b).

  >>> e = estimate(Moments(2., 1., 4., 1.))
  >>> float(e.sq_norm), float(e.variance)
  (3.0, 2.0)

  Args:
    moments: Of n gradients; with n = 1 both estimates are NaN: unavailable.
    num_examples: N, where the n·b examples were drawn from N without
      replacement. G and S are then those of the finite set, exactly where the
      sample is the whole of it: G + S/N and (1 − 1/N) S of the above.
  """
  n, b, sq_norm_of_mean, deviation = moments
  _check_finite_set(moments, num_examples)
  freedom = jnp.where(jnp.equal(n, 1), jnp.nan, n - 1.)
  variance = b * n / freedom * deviation
  sq_norm = sq_norm_of_mean - variance / (n * b)
  if num_examples is None:
    return Estimate(sq_norm, variance)
  share = 1 / jnp.asarray(num_examples, jnp.float32)
  return Estimate(sq_norm + variance * share, variance * (1 - share))


def noise_scale(estimate: Estimate) -> jax.Array:
  """Compute B_simple = tr Σ / ‖∇F‖², in examples.

  Infinite where the estimate of ‖∇F‖² is not positive. McCandlish et al., `An
  Empirical Model of Large-Batch Training <https://arxiv.org/abs/1812.06162>`_,
  2018.
  """
  sq_norm, variance = estimate
  positive = jnp.where(sq_norm > 0, sq_norm, 1.)
  otherwise = jnp.where((sq_norm == 0) & (variance == 0), 0., jnp.inf)
  ratio = jnp.where(sq_norm > 0, variance / positive, otherwise)
  return jnp.where(jnp.isnan(sq_norm), jnp.nan, ratio)


def batch_size_bound(estimate: Estimate) -> jax.Array:
  """Compute B_S = 1 + tr Σ / ‖∇F‖², in examples.

  The batch up to which mini-batches waste little of serial SGD's progress an
  example. Infinite where the estimate of ‖∇F‖² is not positive. Yin et al.
  2018, Definition 5.

  >>> float(batch_size_bound(Estimate(2., 6.)))
  4.0
  """
  return 1 / inverse_batch_size_bound(estimate)


def inverse_batch_size_bound(estimate: Estimate) -> jax.Array:
  """Compute 1/B_S = ‖∇F‖² / (‖∇F‖² + tr Σ), clipped to [0, 1].

  Never overflows; 1 where all gradients are equal, all zero among them.

  >>> float(inverse_batch_size_bound(Estimate(-1., 6.)))
  0.0
  """
  return _share(estimate.sq_norm, estimate.variance)


def bound_without_replacement(bound: Scalar, num_examples: Scalar) -> jax.Array:
  """Convert B_S for batches drawn without replacement from N examples.

  (N − 1) B_S / (N − B_S), infinite where B_S ≥ N: E‖Σ_B g‖² is
  B M² (1 + (B − 1)/that), with M² the mean ‖g_i‖².
  """
  left = jnp.maximum(num_examples - jnp.asarray(bound, jnp.float32), 0)
  return (num_examples - 1) * bound / left


def batch_penalty(estimate: Estimate, batch_size: Scalar) -> jax.Array:
  """Compute δ = (B − 1)/B_S: what batching loses against serial SGD.

  In one step on B examples the noise term of serial SGD grows by 1 + δ. Yin
  et al. 2018, Lemma 1.
  """
  return (batch_size - 1) * inverse_batch_size_bound(estimate)


def steps_factor(estimate: Estimate, batch_size: Scalar) -> jax.Array:
  """Compute 1 + B_simple/B: steps needed, over those of exact gradients.

  For the best step size on a quadratic model with a Hessian β·I: the step
  1/(β (B_S + B − 1)) on the summed gradient lowers the loss by
  ‖∇F‖²/(2β) over this factor. Times B, it is the number of gradient
  evaluations. McCandlish et al. 2018.
  """
  return 1 + noise_scale(estimate) / batch_size


def adascale_gain(
  estimate: Estimate, *, batch_size: Scalar, scale: Scalar
) -> jax.Array:
  """Compute the gain r = (G + S/b) / (G + S/(scale·b)), in [1, scale].

  How many steps on batches of b one step on scale·b is worth; the batch-size
  bound is its limit for b = 1 and a large scale. Johnson et al., `AdaScale
  SGD <https://arxiv.org/abs/2007.05105>`_, 2020.

  Args:
    estimate: Averaged, best.
    batch_size: b, of the base run.
    scale: How many times larger the batch is; at least 1.
  """
  inverse = inverse_batch_size_bound(estimate)
  noise = (1 - inverse) / batch_size
  return (inverse + noise) / (inverse + noise / scale)


def norm_test_batch_size(estimate: Estimate, theta: Scalar) -> jax.Array:
  """Compute the batch B = S / (θ² G) that passes the norm test.

  With it E‖g_B − ∇F‖² = θ² ‖∇F‖². Byrd et al., `Sample Size Selection in
  Optimization Methods for Machine Learning
  <https://doi.org/10.1007/s10107-012-0572-5>`_, 2012.

  Raises ValueError where theta is known and not positive.
  """
  checks.positive('theta', theta)
  return noise_scale(estimate) / jnp.square(theta)


def drop_updates_bound(
  estimate: Estimate, rate: Scalar, num_examples: Scalar, *,
  draws: str = 'tied',
) -> jax.Array:
  """Predict B_S where `drop_updates` masks each example's gradient.

  'tied': 1/B = (1 − p)/B_S + p/n; 'fresh': B_S/(1 − p); 'shared': B_S.

  >>> float(drop_updates_bound(Estimate(1., 1.), 0.5, 4, draws='fresh'))
  4.0

  Args:
    estimate: Of the gradients as they are.
    rate: p; to rescale by 1/(1 − p) changes nothing.
    num_examples: n, of the set that batches are drawn from with replacement.
    draws: 'tied' to the example, which draws alike each time that a step's
      batch holds it (Yin et al. 2018, equation 10); 'fresh' each time; or
      'shared' by the whole batch.

  Raises:
    ValueError: On a bad argument, where it is known.
  """
  checks.fraction('rate', rate)
  square = estimate.sq_norm + estimate.variance
  odds = rate / (1 - jnp.asarray(rate, jnp.float32))
  return _noisy_bound(estimate, odds * square, num_examples, draws,
                      shared=odds * estimate.sq_norm)


def langevin_noise_bound(
  estimate: Estimate, stddev: Scalar, num_parameters: int,
  num_examples: Scalar, *, draws: str = 'tied',
) -> jax.Array:
  """Predict B_S where `add_langevin_noise` acts on each example's gradient.

  With M² = G + S and d parameters, 'tied': (M² + dσ²)/(G + dσ²/n); 'fresh':
  (M² + dσ²)/G; 'shared': (M² + dσ²)/(G + dσ²), towards one. Yin et al. 2018,
  equation 11; for the arguments see `drop_updates_bound`.

  >>> float(langevin_noise_bound(Estimate(1., 3.), 1., 6, 6))
  5.0
  """
  checks.count('num_parameters', num_parameters, 1)
  checks.at_least('stddev', stddev, 0)
  added = num_parameters * jnp.square(jnp.asarray(stddev, jnp.float32))
  return _noisy_bound(estimate, added, num_examples, draws, shared=added)


def quantized_bound(
  estimate: Estimate, sq_norm: Scalar, num_examples: Scalar, *,
  draws: str = 'tied',
) -> jax.Array:
  """Predict B_S where each example's gradient is rounded without bias.

  'tied': 1/B = 1/n + (1/B_S − 1/n) M²/q; 'fresh': q/G. Yin et al. 2018,
  equation 12, where q is the mean of ‖g_i‖₂‖g_i‖₁.

  >>> float(quantized_bound(Estimate(1., 3.), 8., 4, draws='fresh'))
  8.0

  Args:
    estimate: Of the gradients as they are.
    sq_norm: q, the mean over the examples of what `quantized_sq_norm` gives.
    num_examples: n.
    draws: 'tied' or 'fresh', as there. Shared draws have no such form.
  """
  checks.at_least('sq_norm', sq_norm, 0)
  added = sq_norm - (estimate.sq_norm + estimate.variance)
  return _noisy_bound(estimate, added, num_examples, draws)


def _noisy_bound(estimate, added, num_examples, draws, shared=None):
  """B_S where noise of no bias adds to each ‖g_i‖², and this to ‖∇F‖²."""
  checks.at_least('num_examples', num_examples, 1)
  in_common = {'tied': added / num_examples, 'fresh': 0.}
  if shared is not None:
    in_common['shared'] = shared
  checks.choice('draws', draws, in_common)
  signal = estimate.sq_norm + in_common[draws]
  total = estimate.sq_norm + estimate.variance + added
  return 1 / _share(signal, total - signal)


def _share(signal, noise):
  """signal / (signal + noise) in [0, 1], also of a sum that overflows."""
  signal, noise = jnp.maximum(signal, 0.), jnp.maximum(noise, 0.)
  scale = jnp.maximum(signal, noise)
  safe = jnp.where(scale == 0, 1., scale)
  signal, noise = signal / safe, noise / safe
  return jnp.where(scale == 0, 1., signal / jnp.where(
    scale == 0, 1., signal + noise))


def _check_finite_set(moments, num_examples):
  known = not any(isinstance(x, jax.core.Tracer)
                  for x in (moments.num_gradients, moments.batch_size,
                            num_examples))
  if num_examples is None or not known:
    return
  drawn = float(jnp.max(moments.num_gradients * moments.batch_size))
  if num_examples < drawn * (1 - 1e-6):
    raise ValueError(
      f'num_examples={num_examples}: must be at least the {drawn:g} examples '
      'that were drawn from them without replacement'
    )
