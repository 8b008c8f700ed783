"""What batches and delays cost, by the (M, σ²) of the noise of a gradient.

Where the noise ξ of one example's gradient has E‖ξ‖² ≤ M ‖∇f‖² + σ², SGD on
batches of b, with gradients that are τ steps old, takes of the order of

  T = L F₀ [(τ + 1 + M/b)/ε + σ²/(b ε²)]

steps to ‖∇f‖² ≤ ε, at the rate c/(L (τ + 1 + M/b)) at most. Batches and delays
are hence free up to one number, M + σ²/ε, and a waste beyond it. These laws are
of SGD; an update that is a sign, or is divided by one, has others.

All is plain arithmetic: numbers and NumPy arrays stay on the host, and arrays
of JAX may be traced. Stich, Mohtashami, Jaggi, `Critical Parameters for
Scalable Distributed Learning with Large Batches and Asynchronous Updates
<https://arxiv.org/abs/2103.02351>`_, 2021.
"""

from typing import NamedTuple

import jax
import numpy as np

from gradiv._common import checks
from gradiv.diversity import metrics

Scalar = jax.typing.ArrayLike


class NoiseModel(NamedTuple):
  """E‖ξ‖² ≤ M ‖∇f‖² + σ², of the gradient of one example.

  Attributes:
    relative: M, what grows and shrinks with the gradient.
    absolute: σ², what is left where the gradient is zero.
  """

  relative: Scalar
  absolute: Scalar = 0.


def critical_batch_size(
  noise: NoiseModel, *, sq_norm: Scalar, staleness: Scalar = 0
) -> Scalar:
  """Compute (M + σ²/ε) / (τ + 1), the batch from which on more is a waste.

  There half of the examples are. Without delay it is the noise scale of
  McCandlish et al. at ‖∇f‖² = ε.

  >>> critical_batch_size(NoiseModel(21., 2.), sq_norm=0.01)
  221.0

  Args:
    noise: The pair (M, σ²); see `gradiv.scaling.fit_noise`.
    sq_norm: ε, the ‖∇f‖² that is aimed at.
    staleness: τ, how many steps old the gradients are. b (τ + 1) gradients are
      under way at a time, and share what is free.
  """
  _at_least('staleness', staleness, 0)
  return _critical(noise, sq_norm) / (staleness + 1)


def critical_delay(
  noise: NoiseModel, *, sq_norm: Scalar, batch_size: Scalar = 1
) -> Scalar:
  """Compute (M + σ²/ε) / b, the delay from which on steps grow with it.

  At a delay that is one larger, twice as many steps are needed as at none.

  >>> critical_delay(NoiseModel(21., 2.), sq_norm=0.01, batch_size=4)
  55.25

  Args:
    noise: The pair (M, σ²); see `gradiv.scaling.fit_noise`.
    sq_norm: ε, the ‖∇f‖² that is aimed at.
    batch_size: b.
  """
  _positive('batch_size', batch_size)
  return _critical(noise, sq_norm) / batch_size


def largest_stable_rate(
  smoothness: Scalar, *, noise_ratio: Scalar = 0., batch_size: Scalar = 1,
  staleness: Scalar = 0, constant: float = 0.25,
) -> Scalar:
  """Compute c / (L (τ + 1 + M/b)), the rate where noise is not what limits it.

  Multiplied by b as long as that is far below M/(τ + 1), constant beyond; and
  by 1/τ once the delay is far above M/b, not before.

  >>> largest_stable_rate(2., noise_ratio=12., batch_size=4, staleness=4)
  0.015625

  Args:
    smoothness: L, the largest curvature.
    noise_ratio: M, of one example.
    batch_size: b.
    staleness: τ.
    constant: c; with 1/4 the mean of ‖∇f‖² over T steps is at most
      16 F₀/(3 γ T) + 4 L γ σ²/b for any smooth f. On quadratics the largest
      rate of all has a c from π/2 to 2, see `experiments.critical_theory`.
  """
  _positive('smoothness', smoothness)
  checks.positive('constant', constant)
  return constant / (smoothness * _slowness(noise_ratio, batch_size, staleness))


def noise_limited_rate(
  smoothness: Scalar, *, gap: Scalar, variance: Scalar, num_steps: Scalar,
  batch_size: Scalar = 1,
) -> Scalar:
  """Compute √(F₀ b / (L σ² T)), the rate where noise is what limits it.

  No delay is in it. For as many steps it grows as √b; for as many examples, T
  falling as 1/b, as b. Take the smaller of this and `largest_stable_rate`.

  Args:
    smoothness: L.
    gap: F₀ = f(x₀) − min f.
    variance: σ², of one example.
    num_steps: T.
    batch_size: b.
  """
  for name, value in (('smoothness', smoothness), ('gap', gap),
                      ('variance', variance), ('num_steps', num_steps),
                      ('batch_size', batch_size)):
    _positive(name, value)
  return (gap * batch_size / (smoothness * variance * num_steps)) ** 0.5


def rate_factor(
  noise_ratio: Scalar, *, batch_sizes: tuple[Scalar, Scalar] = (1, 1),
  stalenesses: tuple[Scalar, Scalar] = (0, 0),
) -> Scalar:
  """Compute by what to multiply a rate when batch or delay change.

  (τ_old + 1 + M/b_old) / (τ_new + 1 + M/b_new); where noise is not what limits
  it.

  >>> rate_factor(8., batch_sizes=(1, 4))
  3.0

  Args:
    noise_ratio: M.
    batch_sizes: Those of before and of now.
    stalenesses: Likewise.
  """
  old, new = (_slowness(noise_ratio, *both)
              for both in zip(batch_sizes, stalenesses, strict=True))
  return old / new


def online_rate(
  reference_rate: Scalar, estimate: metrics.Estimate, *,
  reference_batch_size: Scalar, batch_size: Scalar, staleness: Scalar = 0,
) -> jax.Array:
  """Compute γ_t = γ_ref (1 + M_t/b_ref) / (τ + 1 + M_t/b), of what is tracked.

  Without delay, and with γ_ref tuned on b_ref, that is AdaScale's rate. Bounded
  for any finite estimate: where ‖∇f‖² is not positive, it is γ_ref b/b_ref.

  >>> float(online_rate(.5, metrics.Estimate(1., 8.), reference_batch_size=1,
  ...                   batch_size=4, staleness=6))
  0.5

  Args:
    reference_rate: γ_ref, good for b_ref without delay.
    estimate: Averaged, as `track_moments` has it; M_t = tr Σ / ‖∇f‖².
    reference_batch_size: b_ref.
    batch_size: b.
    staleness: τ.
  """
  _positive('reference_batch_size', reference_batch_size)
  _positive('batch_size', batch_size)
  _at_least('staleness', staleness, 0)
  signal = metrics.inverse_batch_size_bound(estimate)
  noise = 1 - signal
  return reference_rate * (signal + noise / reference_batch_size) / (
    signal * (staleness + 1) + noise / batch_size)


def speed_up(batch_size: Scalar, critical: Scalar) -> Scalar:
  """Compute b (1 + B)/(b + B): how many times fewer steps than with one.

  With B = `critical_batch_size`; 1 + B at most.

  >>> speed_up(10, 10.)
  5.5
  """
  return batch_size * parallel_efficiency(batch_size, critical)


def parallel_efficiency(batch_size: Scalar, critical: Scalar) -> Scalar:
  """Compute (1 + B)/(b + B): the speed-up an example; half of it near b = B."""
  _at_least('batch_size', batch_size, 1)
  _at_least('critical', critical, 0)
  return (1 + critical) / (batch_size + critical)


def samples_factor(steps_factor: Scalar) -> Scalar:
  """Compute N/N_min = t/(t − 1) of t = T/T_min: the price of fewer steps.

  (T/T_min − 1)(N/N_min − 1) = 1, with T = T_min (1 + B/b) steps, N = b T
  examples. See `gradiv.steps_factor` for t.

  >>> samples_factor(1.25)
  5.0
  """
  _positive('steps_factor - 1', steps_factor - 1)
  return steps_factor / (steps_factor - 1)


def _critical(noise, sq_norm):
  _at_least('noise.relative', noise.relative, 0)
  _at_least('noise.absolute', noise.absolute, 0)
  _positive('sq_norm', sq_norm)
  return noise.relative + noise.absolute / sq_norm


def _slowness(noise_ratio, batch_size, staleness):
  """τ + 1 + M/b."""
  _at_least('noise_ratio', noise_ratio, 0)
  _positive('batch_size', batch_size)
  _at_least('staleness', staleness, 0)
  return staleness + 1 + noise_ratio / batch_size


def _positive(name, value):
  _check_known(checks.positive, name, value)


def _at_least(name, value, least):
  _check_known(checks.at_least, name, value, least)


def _check_known(check, name, value, *args):
  """Check a number, or each of an array of NumPy; JAX may be tracing."""
  if isinstance(value, np.ndarray):
    for each in value.ravel():
      check(name, each, *args)
  else:
    check(name, value, *args)
