"""Learning rates for a batch size b and a delay τ: of SGD, and one of Adam.

Two things limit the rate. Curvature and relative noise allow
c/(L(τ + 1 + M/b)); absolute noise asks for a rate that falls with the length
of the run. Use the smaller of the two. See `gradiv.scaling.laws` for M, σ², L
and the source.
"""

import jax

from gradiv._common import checks
from gradiv.diversity import Estimate, inverse_batch_size_bound

Scalar = jax.typing.ArrayLike


def largest_stable_rate(
  smoothness: Scalar, *, noise_ratio: Scalar = 0., batch_size: Scalar = 1,
  staleness: Scalar = 0, constant: Scalar = 0.25,
) -> Scalar:
  """Compute the largest stable rate, c / (L (τ + 1 + M/b)).

  It grows in proportion to the batch size as long as b is far below M/(τ + 1),
  and falls as 1/τ only once the delay is far above M/b.

  >>> largest_stable_rate(2., noise_ratio=12., batch_size=4, staleness=4)
  0.015625

  Args:
    smoothness: L, the largest curvature.
    noise_ratio: M, of one example.
    batch_size: b, in examples.
    staleness: τ, in steps.
    constant: c. With 1/4, the mean of ‖∇f‖² over T steps is at most
      16F₀/(3γT) + 4Lγσ²/b for any smooth f. On quadratics, the exact limit
      corresponds to a c between π/2 and 2.
  """
  checks.positive('smoothness', smoothness)
  checks.positive('constant', constant)
  return constant / (smoothness * _slowness(noise_ratio, batch_size, staleness))


def noise_limited_rate(
  smoothness: Scalar, *, gap: Scalar, variance: Scalar, num_steps: Scalar,
  batch_size: Scalar = 1,
) -> Scalar:
  """Compute the rate that balances absolute noise, √(F₀ b / (L σ² T)).

  It does not depend on the delay. For a fixed number of steps it grows as √b;
  for a fixed number of examples, where T falls as 1/b, it grows as b.

  Args:
    smoothness: L, the largest curvature.
    gap: F₀ = f(x₀) − min f.
    variance: σ², of one example.
    num_steps: T.
    batch_size: b, in examples.
  """
  for name, value in (('smoothness', smoothness), ('gap', gap),
                      ('variance', variance), ('num_steps', num_steps),
                      ('batch_size', batch_size)):
    checks.positive(name, value)
  return (gap * batch_size / (smoothness * variance * num_steps)) ** 0.5


def rate_factor(
  noise_ratio: Scalar, *, batch_sizes: tuple[Scalar, Scalar] = (1, 1),
  stalenesses: tuple[Scalar, Scalar] = (0, 0),
) -> Scalar:
  """Compute the factor for a rate when batch size or delay changes.

  (τ_old + 1 + M/b_old) / (τ_new + 1 + M/b_new); valid where absolute noise is
  not the limit.

  >>> rate_factor(8., batch_sizes=(1, 4))  # four times the batch, M = 8
  3.0

  Args:
    noise_ratio: M.
    batch_sizes: The old and the new batch size.
    stalenesses: The old and the new staleness.
  """
  old, new = (_slowness(noise_ratio, *both)
              for both in zip(batch_sizes, stalenesses, strict=True))
  return old / new


def online_rate(
  reference_rate: Scalar, estimate: Estimate, *,
  reference_batch_size: Scalar, batch_size: Scalar, staleness: Scalar = 0,
) -> jax.Array:
  """Compute the rate for a batch and a delay from the noise tracked so far.

  γ_t = γ_ref (1 + M_t/b_ref) / (τ + 1 + M_t/b) with M_t = tr Σ / ‖∇f‖².
  Without delay it is AdaScale's rate. It is bounded for any finite estimate:
  where ‖∇f‖² is not positive, it is γ_ref b/b_ref.

  >>> float(online_rate(.5, Estimate(1., 8.), reference_batch_size=1,
  ...                   batch_size=4, staleness=6))
  0.5

  Args:
    reference_rate: γ_ref, a rate that works for b_ref without delay.
    estimate: Averaged over steps, as `gradiv.read_moments` returns it.
    reference_batch_size: b_ref, in examples.
    batch_size: b, in examples.
    staleness: τ, in steps.
  """
  checks.positive('reference_batch_size', reference_batch_size)
  checks.positive('batch_size', batch_size)
  checks.at_least('staleness', staleness, 0)
  signal = inverse_batch_size_bound(estimate)
  noise = 1 - signal
  return (signal + noise / reference_batch_size) * reference_rate / (
    signal * (staleness + 1) + noise / batch_size)


def square_root_rate(
  reference_rate: Scalar, estimate: Estimate, *,
  reference_batch_size: Scalar, batch_size: Scalar,
) -> jax.Array:
  """Compute Adam's rate for a batch from the noise tracked so far.

  γ = γ_ref √(b/b_ref) (B + b_ref) / (B + b) with the noise scale B. It grows as
  √b while b is far below B, is largest at b = B, and falls beyond. Use it in
  place of `online_rate` for Adam and for methods that take signs. Where ‖∇F‖²
  is not positive it is γ_ref √(b/b_ref).

  Li et al., `Surge Phenomenon in Optimal Learning Rate and Batch Size Scaling
  <https://arxiv.org/abs/2405.14578>`_, 2024: γ is proportional to
  1 / (√(B/b) + √(b/B)).

  >>> rate = lambda b: float(square_root_rate(
  ...   1., Estimate(1., 16.), reference_batch_size=1, batch_size=b))
  >>> round(rate(4), 2)  # √4 · 17/20: B = 16 is far
  1.7
  >>> rate(16) > max(rate(8), rate(32))
  True

  Args:
    reference_rate: γ_ref, a rate that works for b_ref.
    estimate: Averaged over steps, as `gradiv.read_moments` returns it. The law
      is about the gradient as it is, not in Adam's metric.
    reference_batch_size: b_ref, in examples.
    batch_size: b, in examples.
  """
  checks.positive('reference_batch_size', reference_batch_size)
  checks.positive('batch_size', batch_size)
  signal = inverse_batch_size_bound(estimate)
  noise = 1 - signal
  growth = (batch_size / reference_batch_size) ** 0.5
  return (noise + signal * reference_batch_size) * reference_rate * growth / (
    noise + signal * batch_size)


def _slowness(noise_ratio, batch_size, staleness):
  """Return τ + 1 + M/b."""
  checks.at_least('noise_ratio', noise_ratio, 0)
  checks.positive('batch_size', batch_size)
  checks.at_least('staleness', staleness, 0)
  return staleness + 1 + noise_ratio / batch_size
