"""Costs of batch size and delay, from the noise of one example's gradient.

Suppose the noise ξ of one example's gradient satisfies E‖ξ‖² ≤ M‖∇f‖² + σ².
Then SGD with batch size b and gradients that are τ steps old needs on the
order of

  T = L F₀ [(τ + 1 + M/b)/ε + σ²/(b ε²)]

steps to reach ‖∇f‖² ≤ ε, for smoothness L and initial gap F₀. Up to one
number, M + σ²/ε, larger batches and longer delays are free; beyond it they are
wasted. The laws are those of SGD: methods that take signs or divide by second
moments follow others.

Numbers and NumPy arrays stay on the host; JAX arrays may be traced. Source:
Stich, Mohtashami, Jaggi, `Critical Parameters for Scalable Distributed Learning
with Large Batches and Asynchronous Updates
<https://arxiv.org/abs/2103.02351>`_, 2021.
"""

from typing import NamedTuple

import jax

from gradiv._common import checks

Scalar = jax.typing.ArrayLike


class NoiseModel(NamedTuple):
  """Noise of one example's gradient: E‖ξ‖² ≤ M‖∇f‖² + σ².

  Attributes:
    relative: M, the part that grows and shrinks with the gradient.
    absolute: σ², the part that remains where the gradient is zero.
  """

  relative: Scalar
  absolute: Scalar = 0.


def critical_batch_size(
  noise: NoiseModel, *, sq_norm: Scalar, staleness: Scalar = 0
) -> Scalar:
  """Compute the critical batch size (M + σ²/ε) / (τ + 1), in examples.

  Below it, doubling the batch nearly halves the steps; at it, half of the
  examples are wasted. Without delay it is the noise scale of McCandlish et al.
  at ‖∇f‖² = ε.

  >>> critical_batch_size(NoiseModel(21., 2.), sq_norm=0.01)
  221.0

  Args:
    noise: The pair (M, σ²), for example from `fit_noise`.
    sq_norm: ε, the squared gradient norm that training aims at.
    staleness: τ, the age of the gradients in steps. With a delay, b(τ + 1)
      gradients are under way at once, and the bound is for all of them.

  Raises:
    ValueError: If `sq_norm` is not positive, or `staleness` is below 0.

  Stich et al. 2021; see the top of the module.
  """
  checks.at_least('staleness', staleness, 0)
  return _critical(noise, sq_norm) / (staleness + 1)


def critical_delay(
  noise: NoiseModel, *, sq_norm: Scalar, batch_size: Scalar = 1
) -> Scalar:
  """Compute the critical delay (M + σ²/ε) / b, in steps.

  Below it, stale gradients cost almost nothing; at a delay one larger, twice
  as many steps are needed as without delay.

  >>> critical_delay(NoiseModel(21., 2.), sq_norm=0.01, batch_size=4)
  55.25

  Args:
    noise: The pair (M, σ²), for example from `fit_noise`.
    sq_norm: ε, the squared gradient norm that training aims at.
    batch_size: b, in examples.

  Raises:
    ValueError: If `sq_norm` or `batch_size` is not positive.

  Stich et al. 2021; see the top of the module.
  """
  checks.positive('batch_size', batch_size)
  return _critical(noise, sq_norm) / batch_size


def speed_up(batch_size: Scalar, critical: Scalar) -> Scalar:
  """Compute how many times fewer steps a batch takes than one example.

  b(1 + B)/(b + B) for the critical batch size B; at most 1 + B.

  >>> speed_up(10, 10.)  # at the critical batch size, about half of 10
  5.5
  """
  return batch_size * parallel_efficiency(batch_size, critical)


def parallel_efficiency(batch_size: Scalar, critical: Scalar) -> Scalar:
  """Compute the speed-up per example, (1 + B)/(b + B).

  It is 1 for a single example and about one half at the critical batch size B.
  """
  checks.at_least('batch_size', batch_size, 1)
  checks.at_least('critical', critical, 0)
  return (1 + critical) / (batch_size + critical)


def samples_factor(steps_factor: Scalar) -> Scalar:
  """Compute the price of fewer steps: examples over the fewest possible.

  With T = T_min(1 + B/b) steps and N = bT examples, (T/T_min − 1)(N/N_min − 1)
  = 1, so that N/N_min = t/(t − 1) for t = T/T_min. See `gradiv.steps_factor`
  for t.

  >>> samples_factor(1.25)  # steps within 25 % of the fewest
  5.0
  """
  checks.positive('steps_factor - 1', steps_factor - 1)
  return steps_factor / (steps_factor - 1)


def _critical(noise, sq_norm):
  checks.at_least('noise.relative', noise.relative, 0)
  checks.at_least('noise.absolute', noise.absolute, 0)
  checks.positive('sq_norm', sq_norm)
  return noise.relative + noise.absolute / sq_norm
