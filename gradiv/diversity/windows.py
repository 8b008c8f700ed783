"""Windows of several lengths over the tracked steps, in which B_S is known.

A single step says little about ‖∇F‖²: on a batch far below B_S, hundreds of
steps must be averaged. Meanwhile G = ‖∇F‖² and S = tr Σ fall by orders of
magnitude, and a plain average would be that of its oldest steps. So each step
is divided by a scale c_t that was known before it, an average of Ĝ + Ŝ over
about ten steps *before* t. As c_t does not depend on step t, nothing is biased,
and no step dominates. The target is a number in its own right, the *windowed*
bound, whose inverse averages 1/B_S over the window with nearly equal weights:

  1/B_S(K) = Σ βʲ G_{t−j}/c_{t−j} / Σ βʲ (G + S)_{t−j}/c_{t−j},  β = 1 − 1/K

The interval is for that number. Drift is part of it, so that none has to be
modeled; it counts as noise where the variance of the mean is estimated, by
Σ β²ʲ (x_{t−j} − x̄)² / (Σ βʲ)², which errs on the wide side.

Windows of K = 16, 32, ..., 2,048 steps are kept side by side. The reading is
that of the shortest one that knows B_S to a factor of two. Three things stand
between Student's t and the level that it promises:

* *Drift* counts as noise, so that intervals are a little too wide.
* *Selection.* The window is chosen by what it says. One whose estimate of G is
  by chance too large is chosen too early, so that too large is more frequent
  than too small. Of the 5 % that the interval may miss, its lower end of 1/B_S
  is given 1.75 %, its upper end 3 %. The upper end is the one-sided bound, too.
* *Heavy tails.* Where a few rare steps carry G, a window without them
  estimates G too small, and its error too. By Edgeworth's expansion, the
  quantile z of a mean whose errors have the skewness κ is
  z ± κ (2 z² + 1) / 6. Each end is widened by this, and never narrowed: a
  skewness that is estimated too small is common, one too large is not.

Simulated, with known truth, on seeds that were not used to choose the numbers
above: 300 runs of 3,000 steps on 16 gradients in 10 dimensions, Gaussian;
Student's t with 3 degrees of freedom; Gaussian with a log-normal scale of the
noise; or the same scale on the whole gradient, so that few examples carry
‖∇F‖². tr Σ falls by four orders of magnitude, and B_simple grows from 5 to 60,
from 20 to 300 or from 30 to 2,000, without jitter or with one of 50 % from step
to step. In each of these twelve cases, at a level of 95 %,

  the interval of the chosen window holds its truth in 93 to 97 % of the looks;
  B_S is known in 97 to 100, 94 to 99 and 30 to 41 % of them;
  the one-sided bound holds in 96 to 100 %; at the looks that do not know B_S,
  in 96 to 100 % with heavy tails, and in 93 to 94 % without;
  the predicted step of first knowing B_S is within a factor of two of what it
  took in 87 to 100 % of the runs (each by its median look), and in 76 to 100 %
  of all looks; the median ratio is 0.9 to 1.0.

Tails may be too heavy for this. With a log-normal scale of σ = 1.5 on the whole
gradient (it is 1 above), the intervals held in 60 to 75 % of the looks.

Where no window is long enough for B_S (300 for good, on 16 gradients), 6 % of
the looks seem to know it, by chance, and 85 % of these are right: 1 % of all
looks are wrong. To keep the chosen window until it ceases to know was simulated
as well: the intervals hold in up to 1.5 % more of the looks, but the window is
up to four times as long, and so is older. The shortest is read.

A network that fits its training set is harder: on digits at batch 16, far below
B_S, rare pairs of examples in one batch carry ‖∇F‖². In 36 runs, by which the
3 % was chosen, the bound was right in 96 ± 2 % of the looks, and without the
widening in 95 ± 2 %. A run has one or two independent windows of 2,048 steps: a
single run says little about coverage.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradiv._common import trees
from gradiv.diversity import intervals
from gradiv.diversity.estimates import Estimate

Scalar = jax.typing.ArrayLike

LENGTHS = tuple(2**k for k in range(4, 12))
_LENGTH = np.array(LENGTHS, np.float32)
_DECAY = 1 - 1 / _LENGTH

# Of the scale: an average over about ten steps.
_SCALE_DECAY = 0.9

# A step this many times its scale stands at the start of something new. It
# only sets the scale, lest its square fill the windows for good.
_JUMP = 1e6

# Steps, of equal weight. With fewer, the variance of the mean is a guess.
_FEWEST = 8.0

# How the chance of a miss, 1 − level, is spent; see above.
_TOO_LARGE, _TOO_SMALL = 0.35, 0.6


class Windows(NamedTuple):
  """Running sums over the steps j = 0, 1, ... back from now.

  With x = G/c and y = (G + S)/c − 1:

  Attributes:
    scale: [2], Σ 0.9ʲ (1, G + S) / 10.
    totals: [windows, 3], Σ βʲ (1, x, y).
    squares: [windows, 5], Σ β²ʲ (x, y, x², x y, y²).
    cubes: [windows, 4], Σ β³ʲ (x³, x² z, x z², z³), with z = 1 + y.
  """

  scale: jax.Array
  totals: jax.Array
  squares: jax.Array
  cubes: jax.Array


class Known(NamedTuple):
  """What the windows know of p = 1/B_S.

  Attributes:
    fraction: Estimate of p; not clipped. NaN before the second step.
    least: Lower end of the interval of p.
    most: Upper end.
    window: int32, steps of the chosen window; 0 if none knows B_S to a factor
      of two. The other numbers are then those of the longest window.
    batch_size_at_least: Lower bound on B_S.
    steps_until_known: Predicted number of further steps until a window knows
      B_S to a factor of two: 0 if one does, infinite if at this batch size none
      ever will, NaN as long as G is not known to differ from zero.
    place: int32, place in `LENGTHS` of the window that the numbers are about.
  """

  fraction: jax.Array
  least: jax.Array
  most: jax.Array
  window: jax.Array
  batch_size_at_least: jax.Array
  steps_until_known: jax.Array
  place: jax.Array


def init() -> Windows:
  """Return the windows before the first step."""
  zeros = lambda *shape: jnp.zeros(shape, jnp.float32)
  return Windows(zeros(2), *(zeros(len(LENGTHS), n) for n in (3, 5, 4)))


def scale(windows: Windows) -> jax.Array:
  """Compute c, by which the next step is divided; NaN before the first."""
  weight, total = windows.scale
  return total / jnp.where(weight == 0, jnp.nan, weight)


def update(windows: Windows, sample: Estimate) -> Windows:
  """Add one step; the first one only sets the scale."""
  c = scale(windows)
  signal, noise = (jnp.asarray(x, jnp.float32) for x in sample)
  total = signal + noise
  x, y, z = signal / c, (total - c) / c, total / c
  fits = jnp.abs(x) + jnp.abs(y) < _JUMP  # False of NaN, and if c is zero
  one = jnp.ones_like(x)
  decay = _DECAY[:, None]
  added = Windows(
    windows.scale,
    windows.totals * decay + jnp.stack([one, x, y])[None],
    windows.squares * decay**2
    + jnp.stack([x, y, x * x, x * y, y * y])[None],
    windows.cubes * decay**3
    + jnp.stack([x**3, x * x * z, x * z * z, z**3])[None])
  windows = trees.select(fits, added, windows)
  step = (1 - _SCALE_DECAY) * jnp.stack([one, total])
  return windows._replace(scale=windows.scale * _SCALE_DECAY + step)


def read(windows: Windows, *, level: Scalar = 0.95) -> Known:
  """Choose the shortest window that knows B_S to a factor of two; read it."""
  means, steps, freedom = _means(windows)
  skewness = _skewness(windows, means)
  miss = 1 - level
  t = lambda share, sign: _quantile(freedom, share * miss, sign * skewness)
  enough = freedom >= 1
  least = jnp.where(enough, intervals.least(means, t(_TOO_LARGE, -1)), 0.)
  most = jnp.where(enough, intervals.most(means, t(_TOO_SMALL, 1)), 1.)
  is_known = (steps >= _FEWEST) & (0 < least) & (most <= 2 * least)
  is_any = jnp.any(is_known)
  at = jnp.where(is_any, jnp.argmax(is_known), len(LENGTHS) - 1)
  length = jnp.round(windows.totals[at, 0]).astype(jnp.int32)
  longest = jax.tree.map(lambda x: x[-1], means)
  return Known(
    fraction=intervals.fraction(means)[0][at],
    least=least[at],
    most=most[at],
    window=jnp.where(is_any, length, 0),
    batch_size_at_least=1 / most[at],
    steps_until_known=jnp.where(
      is_any, 0., _predict(longest, steps[-1], windows.totals[-1, 0], miss)),
    place=at.astype(jnp.int32))


def _means(windows):
  """Return the `Means` of each window, its steps, and degrees of freedom.

  The steps are those of equal weight that would give the mean its variance,
  (Σ βʲ)²/Σ β²ʲ: in the long run 2K − 1. The degrees of freedom are
  (Σ β²ʲ)²/Σ β⁴ʲ − 1, those of a variance with these weights (Satterthwaite).
  """
  weight, x, y = windows.totals.T
  left = 1 - weight / _LENGTH  # βᵗ after t steps
  steps = weight * (1 + _DECAY) / (1 + left)
  freedom = weight * (1 + left) * (1 + _DECAY**2) / (
    (1 + _DECAY) * (1 + left**2)) - 1
  weight = jnp.where(weight == 0, jnp.nan, weight)
  x, y = x / weight, y / weight
  sx, sy, sxx, sxy, syy = windows.squares.T / weight[None]**2
  covariance = (
    sxx - 2 * x * sx + x * x / steps,
    sxy - x * sy - y * sx + x * y / steps,
    syy - 2 * y * sy + y * y / steps)
  return intervals.Means(x, 1 + y, covariance), steps, freedom


def _skewness(windows, means):
  """Compute that of the mean error of p, from −1 to 1: [windows].

  The errors are d = x − p z, with a mean of zero: Σ β³ʲ d³ / (Σ β²ʲ d²)^1.5.
  """
  p, deviation = intervals.fraction(means)
  xxx, xxz, xzz, zzz = windows.cubes.T / windows.totals[None, :, 0]**3
  cubes = xxx - 3 * p * xxz + 3 * p**2 * xzz - p**3 * zzz
  found = cubes / (deviation * means.total)**3
  return jnp.where(jnp.isfinite(found), jnp.clip(found, -1., 1.), 0.)


def _quantile(freedom, miss, skewness):
  """Expand Student's quantile for the end towards which errors are skewed."""
  t = intervals.student(freedom, 1 - miss)
  z = jax.scipy.special.ndtri(1 - miss)
  return t + jnp.maximum(skewness, 0.) * (2 * z**2 + 1) / 6


def _predict(means, steps, weight, miss):
  """Predict the steps until the longest window knows B_S to a factor of two.

  The standard deviation of p falls as one over the root of the steps, and
  p + t s ≤ 2 (p − t' s) where s ≤ p / (t + 2 t').
  """
  z = lambda share: jax.scipy.special.ndtri(1 - share * miss)
  p, deviation = intervals.fraction(means)
  needed = steps * ((z(_TOO_SMALL) + 2 * z(_TOO_LARGE)) * deviation / p)**2
  # After t steps, those of equal weight are (2K − 1)(1 − βᵗ)/(1 + βᵗ).
  share = needed / (2 * _LENGTH[-1] - 1)
  total = jnp.log((1 - share) / (1 + share)) / np.log(_DECAY[-1])
  seen = jnp.log1p(-weight / _LENGTH[-1]) / np.log(_DECAY[-1])
  more = jnp.where(share < 1, jnp.maximum(total - seen, 1.), jnp.inf)
  return jnp.where((p > deviation) & (steps >= _FEWEST), more, jnp.nan)
