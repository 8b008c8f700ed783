"""The noise scale of sign descent and of Muon, whose norms are not quadratic.

Sign descent (signSGD, Signum, Lion, roughly Adam) steps by the rate in every
coordinate, Muon by the rate in the spectral norm of every matrix. What such a
step gains is measured in the dual norm ‖·‖_*: the ℓ1 norm, and the nuclear norm
(the sum of the singular values), added up over leaves. Naganuma et al. define
the noise scale as ‖σ‖_*² / ‖∇F‖_*², with

  ‖σ‖_* = Σ_j √Σ_jj                                       for sign descent,
  ‖σ‖_* = tr C^½,  C = E (G − ∇F)(G − ∇F)ᵀ, of each matrix  for Muon,

for the gradient G of one example; they fit the batch size B to be θ⁻² times it.
They write C with rows; here it is that of the shorter side of each matrix,
which is smaller, and of which a sample of a few gradients says more.

**The noise** is estimated from n gradients ḡ_i of b examples. √ is concave, so
the root of an unbiased variance is too small. In a coordinate of a Gaussian it
is c σ, with c = √(2/(n−1)) Γ(n/2)/Γ((n−1)/2) ≈ 1 − 1/(4n), and is divided by c:
unbiased then, for any correlation of coordinates. For C with eigenvalues λ_j,
to second order, and ν = n − 1 times the number of independent columns,

  E tr Ĉ^½ − tr C^½ = −1/(4ν) Σ_jk √(λ_j λ_k)/(√λ_j + √λ_k) (1 + δ_jk).

How many are independent is not known, but the bias is one over n − 1, so that
of the others, when one gradient is left out, is one over n − 2. The jackknife
(n − 1) T − (n − 2) T₋ takes it off, and leaves one of order 1/n²: with columns
that are independent, below 0.5 % from n = 4 (3 % at n = 3), and 1 % if all
entries move together. With n = 2 there is none to leave out, and the estimate
stays too small. (The square of either is too large by its variance: for sign
descent by at most 1/c² − 1 ≈ 1/(2n) of it, if all coordinates move together,
and by far less if they do not.)

**The signal** has no unbiased estimate: |μ| has a kink, and the mean of any
statistic of Gaussians is smooth in μ. The plug-in ‖ḡ‖_* is too large, as a norm
is convex: in a coordinate without signal by √(2/π) σ/√B. Where that is most of
it, the noise scale of the plug-in is πB/2, whatever the truth: it follows the
batch size. So the signal is bracketed. With φ(g) the step along g, of norm 1,
⟨g, φ(g)⟩ = ‖g‖_* and ⟨g, u⟩ ≤ ‖g‖_* for all other steps u. Hence

  E mean_i ⟨ḡ_i, φ(ḡ_{−i})⟩ = ⟨∇F, E φ(ḡ_{−i})⟩ ≤ ‖∇F‖_* ≤ E ‖ḡ‖_*,

as ḡ_i is independent of the mean ḡ_{−i} of the others. The left one is what the
optimizer gains by a step of nb − b examples, without bias. Both ends close in
as the batch grows.

Naganuma et al., `Adaptive Batch Sizes Using Non-Euclidean Gradient Noise Scales
for Stochastic Sign and Spectral Descent <https://arxiv.org/abs/2602.03001>`_,
2026, has the two noise scales. The brackets and the corrections are derived
here.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from gradiv import workers
from gradiv._common import checks, trees
from gradiv.diversity import _polar

_NORMS = ('sign', 'spectral', 'muon')


class DualNorms(NamedTuple):
  """Noise and signal in a dual norm; average each over steps before a ratio.

  Attributes:
    noise: Estimate of ‖σ‖_*, for the gradient of one example.
    least: Unbiased estimate of a lower bound on ‖∇F‖_*.
    most: Unbiased estimate of an upper bound on ‖∇F‖_*.
  """

  noise: jax.Array
  least: jax.Array
  most: jax.Array

  def noise_scale(self) -> tuple[jax.Array, jax.Array]:
    """Compute ‖σ‖_*²/‖∇F‖_*² for the upper, and for the lower bound.

    The second is infinite if the lower bound is not positive.

    >>> low, high = DualNorms(jnp.float32(6), jnp.float32(1), 2.).noise_scale()
    >>> float(low), float(high)
    (9.0, 36.0)
    """
    def scale(signal):
      known = jnp.square(self.noise / jnp.where(signal > 0, signal, 1.))
      return jnp.where(jnp.isnan(signal) | (signal > 0), known, jnp.inf)

    return scale(jnp.asarray(self.most)), scale(jnp.asarray(self.least))


def worker_dual_norms(
  grads: optax.Updates,
  axis_name: workers.AxisName,
  *,
  norm: str,
  batch_size: jax.typing.ArrayLike = 1,
) -> DualNorms:
  """Compute the noise and signal of sign descent, or of Muon, for workers.

  Use it in place of `worker_moments` where the optimizer is one of these. For
  the examples of one batch, let each be a worker: ``map_workers`` of
  ``jax.grad`` with backend 'vmap'.

  Beyond the mean gradient, it communicates the variance of each coordinate, or
  the smaller square matrix of each leaf. Look every hundred steps or so: for
  the noise of Muon each worker takes two eigenvalue decompositions per leaf.
  The results are not finite if the gradient of any worker is not.

  Args:
    grads: Gradient of this worker, whole, a mean over `batch_size` examples; a
      tree of floating-point leaves. For Muon, matrices along the last two axes:
      give only what it updates.
    axis_name: Axis, or axes, of the workers; two of them at least.
    norm: 'sign'; 'spectral'; or 'muon', in which the step φ is that of Muon's
      own five steps of Newton and Schulz. Its singular values lie between 0.68
      and 1.21 rather than at 1 (lower, for those under 0.3 % of the Frobenius
      norm), so that `most` may be 0.68 to 1.21 times that of 'spectral'.
    batch_size: Number of examples behind each worker's gradient, equal for all.

  Raises:
    ValueError: While tracing, at a leaf that is no matrix, for Muon; if there
      is one worker; or if the gradient has been reduced over the axis.

  >>> g = jnp.array([[3., 1.], [1., 1.], [2., 4.]])
  >>> norms = jax.vmap(
  ...   lambda g: worker_dual_norms(g, 'workers', norm='sign'),
  ...   axis_name='workers', out_axes=None)(g)
  >>> float(norms.most)  # of the mean gradient (2, 2)
  4.0
  >>> round(float(norms.noise), 2)  # (1 + √3) / 0.886
  3.08
  """
  checks.choice('norm', norm, _NORMS)
  checks.positive('batch_size', batch_size)
  trees.check_floating(grads)
  if norm != 'sign':
    _check_matrices(grads)
  workers.check_private(grads, axis_name)
  n = workers.num_workers(axis_name)
  if n < 2:
    raise ValueError(f'axis_name={axis_name!r}: must have at least two workers')
  leaves = trees.widen(jax.tree.leaves(grads))
  average = lambda x: lax.psum(
    workers.as_private(x, axis_name), axis_name) / n
  means = [average(g) for g in leaves]
  others = [(n * m - g) / (n - 1) for m, g in zip(means, leaves)]
  step = {'sign': jnp.sign, 'spectral': _polar.exact, 'muon': _polar.muon}[norm]
  along = lambda xs, ys: trees.dot(xs, [step(y) for y in ys])
  gaps = [g - m for g, m in zip(leaves, means)]
  noise = _noise_of_signs if norm == 'sign' else _noise_of_matrices
  return DualNorms(
    noise=noise(gaps, n, average) * jnp.sqrt(jnp.float32(batch_size)),
    least=average(along(leaves, others)),
    most=along(means, means))


def _noise_of_signs(gaps, n, average):
  """Add up the standard deviations of all coordinates."""
  roots = [jnp.sum(jnp.sqrt(average(jnp.square(x)) * n / (n - 1)))
           for x in gaps]
  c = math.sqrt(2 / (n - 1)) * math.exp(
    math.lgamma(n / 2) - math.lgamma((n - 1) / 2))
  return sum(roots, jnp.float32(0)) / c


def _noise_of_matrices(gaps, n, average):
  """Add up tr Ĉ^½ over matrices, less the bias that the jackknife finds."""
  total = jnp.float32(0)
  for gap in gaps:
    own = _polar.outer(gap)
    sums = n * average(own)
    whole = _polar.trace_of_root(sums / (n - 1))
    if n > 2:
      # Σ over the others of (g − ḡ_{−i})(g − ḡ_{−i})ᵀ.
      rest = sums - own * (n / (n - 1))
      without = average(_polar.trace_of_root(rest / (n - 2)))
      whole = (n - 1) * whole - (n - 2) * without
    total += whole
  return total


def _check_matrices(grads):
  for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
    if leaf.ndim < 2:
      raise ValueError(
        f'gradient{jax.tree_util.keystr(path)} has shape {leaf.shape}: must be '
        'a matrix; leave out what Muon does not update')
