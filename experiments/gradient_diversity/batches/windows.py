"""B_S over a stretch of training, with an interval, from single steps.

‖∇F‖² and tr Σ fall by orders of magnitude along a training, so that a plain
average would be that of its oldest steps. Here each step is divided by a scale
that was known before it, an average of tr Σ over the steps before: no step
dominates, and nothing is biased. The target is the same average of the exact
values, a harmonic mean of B_S over the window, so that drift is no error.
"""

from typing import NamedTuple

import numpy as np
import scipy.signal
import scipy.stats

from experiments.common.intervals import LEVEL

# Of the scale: an average over about ten steps.
DECAY = 0.9


class Band(NamedTuple):
  """1/B_S over the window before each step [..., step], with its interval."""

  value: np.ndarray
  low: np.ndarray
  high: np.ndarray


def scale_before(noise: np.ndarray) -> np.ndarray:
  """Average tr Σ [..., step] over the steps before each; the first is its own.
  """
  first = noise[..., :1]
  smooth, _ = scipy.signal.lfilter(
    [1 - DECAY], [1, -DECAY], noise, zi=DECAY * first)
  return np.concatenate([first, smooth[..., :-1]], -1)


def exact(signal: np.ndarray, noise: np.ndarray, scale: np.ndarray, window: int
          ) -> np.ndarray:
  """Average exact ‖∇F‖² and tr Σ as `band` does; return 1/B_S [..., step]."""
  x, y = (_summed(z / scale, 1 - 1 / window) for z in (signal, noise))
  return x / (x + y)


def band(signal: np.ndarray, noise: np.ndarray, window: int) -> Band:
  """Estimate 1/B_S over about `window` steps, with an interval of 95 %.

  The interval is Fieller's: all p for which the average of p·(G + S) − G is no
  further from zero than Student's t allows. It takes the drift of the truth
  for noise, and errs on the wide side.

  Args:
    signal: Unbiased estimates of ‖∇F‖² from single steps: [..., step].
    noise: The same for tr Σ.
    window: Weights fall by 1 − 1/window from step to step.
  """
  decay, scale = 1 - 1 / window, scale_before(noise)
  x, y = signal / scale, noise / scale
  total = _summed(np.ones_like(x), decay)
  mean_x, mean_y = _summed(x, decay) / total, _summed(y, decay) / total
  squared = lambda z: _summed(z, decay**2)
  weight = squared(np.ones_like(x))

  def covariance(a, mean_a, b, mean_b):
    products = (squared(a * b) - mean_a * squared(b) - mean_b * squared(a)
                + mean_a * mean_b * weight)
    return products / total**2

  xx = covariance(x, mean_x, x, mean_x)
  xy = covariance(x, mean_x, y, mean_y)
  yy = covariance(y, mean_y, y, mean_y)
  freedom = np.maximum(total**2 / weight - 1, 1)
  t = scipy.stats.t.ppf((1 + LEVEL) / 2, freedom)
  middle = mean_x + mean_y
  a = middle**2 - t**2 * (xx + 2 * xy + yy)
  b = middle * mean_x - t**2 * (xx + xy)
  c = mean_x**2 - t**2 * xx
  root = np.sqrt(np.maximum(b**2 - a * c, 0))
  is_bounded = (a > 0) & (total**2 / weight > 2)
  end = lambda p, otherwise: np.where(
    is_bounded, np.clip(p / np.where(is_bounded, a, 1), 0, 1), otherwise)
  return Band(np.clip(mean_x / middle, 0, 1), end(b - root, 0.),
              end(b + root, 1.))


def _summed(x, decay):
  """Sum over the past, with weights that fall by `decay` from step to step."""
  return scipy.signal.lfilter([1.], [1., -decay], x)
