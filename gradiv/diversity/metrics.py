"""Metrics of gradient diversity, one formula per function.

With G = ‖∇F‖² and S = tr Σ, the batch-size bound of Yin et al., the noise
scale of McCandlish et al. and the critical parameter M of Stich et al. are one
number: B_S = 1 + S/G = 1 + B_simple = 1 + M. Near a stationary point it grows
without limit; its inverse G/(G + S) stays in [0, 1].

Quantities that cannot be estimated (a single gradient has no variance) are
NaN. Average `Estimate` over steps before taking any ratio.

Yin et al., `Gradient Diversity: a Key Ingredient for Scalable Distributed
Learning <https://proceedings.mlr.press/v84/yin18a.html>`_, 2018.
"""

import jax
import jax.numpy as jnp

from gradiv._common import checks
from gradiv.diversity.estimates import Estimate
from gradiv.diversity.moments import Moments

Scalar = jax.typing.ArrayLike


def gradient_diversity(moments: Moments) -> jax.Array:
  """Compute the plug-in diversity Δ = Σ ‖g_i‖² / ‖Σ g_i‖² of a sample.

  Ranges from 1/n, if all gradients are equal (or all are zero), through 1, if
  they are orthogonal, to infinity, if they cancel. Use `batch_size_bound` of an
  `estimate` instead to judge a batch size: of one mini-batch, Δ mostly measures
  how large it is. Yin et al. 2018, Definition 4.

  >>> float(gradient_diversity(Moments(4., 1., 2., 0.)))  # four equal gradients
  0.25
  """
  return 1 / coherence(moments)


def coherence(moments: Moments) -> jax.Array:
  """Compute the coherence 1/Δ = ‖Σ g_i‖² / Σ ‖g_i‖², in [0, n].

  The inverse of the gradient diversity, finite even if gradients cancel:
  the m-coherence of Chatterjee and Zielinski, `Making Coherence Out of Nothing
  At All <https://arxiv.org/abs/2008.01217>`_, 2020.
  """
  return moments.num_gradients * fraction_of_signal(
    moments.sq_norm_of_mean, moments.mean_sq_deviation
  )


def noise_scale(estimate: Estimate) -> jax.Array:
  """Compute the noise scale B_simple = tr Σ / ‖∇F‖², in examples.

  Infinite if the estimate of ‖∇F‖² is not positive. McCandlish et al., `An
  Empirical Model of Large-Batch Training <https://arxiv.org/abs/1812.06162>`_,
  2018.

  >>> float(noise_scale(Estimate(2., 6.)))  # one less than B_S
  3.0
  """
  sq_norm, variance = estimate
  positive = jnp.where(sq_norm > 0, sq_norm, 1.)
  otherwise = jnp.where((sq_norm == 0) & (variance == 0), 0., jnp.inf)
  ratio = jnp.where(sq_norm > 0, variance / positive, otherwise)
  return jnp.where(jnp.isnan(sq_norm), jnp.nan, ratio)


def batch_size_bound(estimate: Estimate) -> jax.Array:
  """Compute the batch-size bound B_S = 1 + tr Σ / ‖∇F‖², in examples.

  Below it, mini-batch SGD makes nearly as much progress per example as serial
  SGD; above it, further examples are wasted. Infinite if the estimate of ‖∇F‖²
  is not positive. Yin et al. 2018, Definition 5.

  >>> float(batch_size_bound(Estimate(2., 6.)))
  4.0
  """
  return 1 / inverse_batch_size_bound(estimate)


def inverse_batch_size_bound(estimate: Estimate) -> jax.Array:
  """Compute 1/B_S = ‖∇F‖² / (‖∇F‖² + tr Σ), clipped to [0, 1].

  Prefer it to B_S for plots and averages, since it never overflows. It is 1 if
  all gradients are equal, or all are zero.

  >>> float(inverse_batch_size_bound(Estimate(-1., 6.)))  # G below zero
  0.0
  """
  return fraction_of_signal(estimate.sq_norm, estimate.variance)


def batch_size_bound_without_replacement(
  bound: Scalar, num_examples: Scalar
) -> jax.Array:
  """Convert B_S for batches that are drawn without replacement.

  (N − 1) B_S / (N − B_S), and infinite if B_S ≥ N. For such batches E‖Σ_B g‖²
  is B M² (1 + (B − 1)/that), with M² the mean ‖g_i‖².

  Args:
    bound: B_S of the set.
    num_examples: Number N of examples in the set.
  """
  left = jnp.maximum(num_examples - jnp.asarray(bound, jnp.float32), 0)
  return jnp.divide((num_examples - 1) * bound, left)


def batch_penalty(estimate: Estimate, batch_size: Scalar) -> jax.Array:
  """Compute δ = (B − 1)/B_S, the penalty of a batch against serial SGD.

  In one step on B examples the noise term of serial SGD grows by the factor
  1 + δ. Yin et al. 2018, Lemma 1.
  """
  return inverse_batch_size_bound(estimate) * (batch_size - 1)


def steps_factor(estimate: Estimate, batch_size: Scalar) -> jax.Array:
  """Compute 1 + B_simple/B: the steps needed, relative to exact gradients.

  Times B, it is the relative number of gradient evaluations. It holds for the
  best step size on a quadratic model with Hessian β·I: the step
  1/(β (B_S + B − 1)) on the summed gradient lowers the loss by ‖∇F‖²/(2β)
  divided by this factor. McCandlish et al. 2018, as for `noise_scale`.

  Args:
    estimate: Estimate, preferably averaged over steps.
    batch_size: Batch size B, in examples.

  >>> float(steps_factor(Estimate(2., 8.), 4.))  # B_simple is 4 as well
  2.0
  """
  return 1 + noise_scale(estimate) / batch_size


def adascale_gain(
  estimate: Estimate, *, batch_size: Scalar, scale: Scalar
) -> jax.Array:
  """Compute the AdaScale gain r = (G + S/b) / (G + S/(scale·b)).

  One step on batches of scale·b is worth r steps on batches of b, with r in
  [1, scale]. For b = 1 and a large scale it tends to the batch-size bound.
  Johnson et al., `AdaScale SGD <https://arxiv.org/abs/2007.05105>`_, 2020.

  Args:
    estimate: Estimate, preferably averaged over steps.
    batch_size: Batch size b of the base run.
    scale: Factor by which the batch is larger; at least 1.

  >>> gain = adascale_gain(Estimate(3., 2.), batch_size=1., scale=2.)
  >>> round(float(gain), 3)  # (3 + 2) / (3 + 2/2)
  1.25
  """
  inverse = inverse_batch_size_bound(estimate)
  noise = (1 - inverse) / batch_size
  return (inverse + noise) / (inverse + noise / scale)


def norm_test_batch_size(estimate: Estimate, theta: Scalar) -> jax.Array:
  """Compute the batch size B = S / (θ² G) that passes the norm test.

  With it, E‖g_B − ∇F‖² = θ² ‖∇F‖². Byrd et al., `Sample Size Selection in
  Optimization Methods for Machine Learning
  <https://doi.org/10.1007/s10107-012-0572-5>`_, 2012.

  Args:
    estimate: Estimate, preferably averaged over steps.
    theta: Tolerated relative error θ of the gradient; positive.

  Returns:
    B, in examples.

  Raises:
    ValueError: If `theta` is not positive.

  >>> float(norm_test_batch_size(Estimate(2., 8.), 0.5))
  16.0
  """
  checks.positive('theta', theta)
  return noise_scale(estimate) / jnp.square(theta)


def fraction_of_signal(signal: Scalar, noise: Scalar) -> jax.Array:
  """Compute signal / (signal + noise) in [0, 1], without overflow of the sum.

  Negative values count as zero; 1 if both are zero.
  """
  signal, noise = jnp.maximum(signal, 0.), jnp.maximum(noise, 0.)
  scale = jnp.maximum(signal, noise)
  safe = jnp.where(scale == 0, 1., scale)
  signal, noise = signal / safe, noise / safe
  return jnp.where(scale == 0, 1., signal / jnp.where(
    scale == 0, 1., signal + noise))
