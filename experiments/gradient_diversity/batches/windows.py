"""B_S along recorded steps, by the windows of `track_moments`, with the truth.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradiv
from gradiv.diversity import windows


class Band(NamedTuple):
  """1/B_S over the chosen window at each record: [..., step].

  Attributes:
    value: Estimate.
    low: Lower end of the interval of 95 %.
    high: Upper end.
    bound: One-sided upper bound on 1/B_S, of 95 %.
    window: Steps of the window; 0 if B_S is not known to a factor of two.
    steps_until_known: As in `gradiv.Reading`.
    scale: Each step is divided by it; NaN at the first, which is left out.
    place: Place of the window in `windows.LENGTHS`.
  """

  value: np.ndarray
  low: np.ndarray
  high: np.ndarray
  bound: np.ndarray
  window: np.ndarray
  steps_until_known: np.ndarray
  scale: np.ndarray
  place: np.ndarray


def band(signal: np.ndarray, noise: np.ndarray) -> Band:
  """Read B_S at each step, from the steps up to it.

  Args:
    signal: Unbiased estimates of ‖∇F‖² from single steps: [..., step].
    noise: The same for tr Σ.
  """
  shape = signal.shape
  steps = (np.float32(x).reshape(-1, shape[-1]).T for x in (signal, noise))
  known, scale = _replay(gradiv.Estimate(*steps))
  found = Band(known.fraction, known.least, known.most,
               1 / known.batch_size_at_least, known.window,
               known.steps_until_known, scale, known.place)
  return Band(*(np.asarray(x).T.reshape(shape) for x in found))


def exact(signal: np.ndarray, noise: np.ndarray, found: Band) -> np.ndarray:
  """Average exact ‖∇F‖² and tr Σ as `band` did; return 1/B_S [..., step]."""
  x, y = (np.nan_to_num(z / found.scale) for z in (signal, signal + noise))
  with np.errstate(invalid='ignore'):  # nothing is counted at the first step
    each = _summed(x) / _summed(y)
  return np.take_along_axis(each, found.place[None], 0)[0]


@jax.jit
def _replay(steps):
  """Track estimates [step, run]; return what is known and the scale."""
  def step(state, sample):
    new = jax.vmap(windows.update)(state, sample)
    return new, (jax.vmap(windows.read)(new), jax.vmap(windows.scale)(state))

  runs = steps.sq_norm.shape[1]
  empty = jax.tree.map(
    lambda x: jnp.zeros((runs, *x.shape), x.dtype), windows.init())
  return jax.lax.scan(step, empty, steps)[1]


def _summed(x):
  """Sum x [..., step] over the past, as each window does: [window, ..., step].
  """
  decay = 1 - 1 / np.array(windows.LENGTHS).reshape(-1, *(1,) * (x.ndim - 1))
  sums, total = np.empty((len(decay), *x.shape)), 0.
  for step in range(x.shape[-1]):
    sums[..., step] = total = x[..., step] + decay * total
  return sums
