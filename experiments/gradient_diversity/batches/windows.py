"""B_S along recorded steps, by the windows of `track_moments`, with the truth.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

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


def windowed(run: xr.Dataset) -> xr.Dataset:
  """Read 1/B_S over windows, from the shortest full one on.

  Returns the fields of `Band` [source, ..., step], from 'workers' and from
  'examples'; with exact moments in the run, the truth as 'exact'.

  Exact values are of the parameters after a step, estimates of those before:
  where each step is recorded, the truth is that of the record before.
  """
  later = run.isel(step=slice(1, None))
  is_each = (np.diff(run['step']) == 1).all()
  before = run.isel(step=slice(None, -1)) if is_each else later
  bands = {}
  for source, prefix in (('workers', ''), ('examples', 'example_')):
    signal, noise = (later[f'{prefix}step_{name}']
                     for name in ('sq_norm', 'variance'))
    found = band(signal.values, noise.values)
    bands[source] = xr.Dataset({
      name: signal.copy(data=x) for name, x in found._asdict().items()})
    if 'exact_variance' in run:
      bands[source]['exact'] = signal.copy(data=exact(
        *(before[f'exact_{name}'].values for name in ('sq_norm', 'variance')),
        found))
  source = xr.DataArray(list(bands), dims='source', name='source')
  return xr.concat(list(bands.values()), source).isel(
    step=slice(min(16, later.sizes['step']) - 1, None))


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
