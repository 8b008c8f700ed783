"""What the windows of `track_moments` know of B_S, against the exact one."""

import numpy as np
import xarray as xr

import gradiv
from experiments.gradient_diversity.batches import windows


def windowed(run: xr.Dataset) -> xr.Dataset:
  """Read 1/B_S over windows, from the shortest full one on.

  Returns the bands of `analysis.Reduced`.

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
    found = windows.band(signal.values, noise.values)
    bands[source] = xr.Dataset({
      name: signal.copy(data=x) for name, x in found._asdict().items()})
    if 'exact_variance' in run:
      bands[source]['exact'] = signal.copy(data=windows.exact(
        *(before[f'exact_{name}'].values for name in ('sq_norm', 'variance')),
        found))
  source = xr.DataArray(list(bands), dims='source', name='source')
  return xr.concat(list(bands.values()), source).isel(
    step=slice(min(16, later.sizes['step']) - 1, None))


def covered(bands: xr.Dataset) -> xr.DataArray:
  """Share of the windows that know B_S whose interval holds it: [seed]."""
  return _share(_holds(bands).where(bands['window'] > 0))


def bounded(bands: xr.Dataset) -> xr.DataArray:
  """Share of the records at which the lower bound on B_S is right: [seed]."""
  return _share(bands['exact'] <= bands['bound'])


def told(bands: xr.Dataset) -> xr.DataArray:
  """Share of the records that tell the truth: [seed].

  Where B_S is known to a factor of two, the interval must hold it; elsewhere
  the lower bound must.
  """
  return _share(xr.where(
    bands['window'] > 0, _holds(bands), bands['exact'] <= bands['bound']))


def known(bands: xr.Dataset) -> xr.DataArray:
  """Share of the records at which B_S is known to a factor of two: [seed]."""
  return _share(bands['window'] > 0)


def _holds(bands):
  return (bands['low'] <= bands['exact']) & (bands['exact'] <= bands['high'])


def _share(of):
  return of.mean([dim for dim in of.dims if dim != 'seed'])


def advice(config, bands: xr.Dataset) -> gradiv.diversity.Advice:
  """Advise on the reference batch size at the last record of one run [step]."""
  last = bands.isel(step=-1)
  window = int(last['window'])
  with np.errstate(divide='ignore'):
    value, low, high, bound = (
      float(1 / last[name]) for name in ('value', 'high', 'low', 'bound'))
  return gradiv.diversity.Advice(
    config.reference_batch_size,
    gradiv.diversity.Factor(value, low, high) if window
    else gradiv.diversity.Factor(np.nan, bound, high),
    window, float(last['steps_until_known']))


def band_ratio(bands: xr.Dataset) -> float:
  """Divide the width of the workers' bands of 1/B_S by the examples'.

  The median over all records at which both are of one window.
  """
  one = bands['place'].sel(source='workers') == bands['place'].sel(
    source='examples')
  wide = (bands['high'] - bands['low']).where(one)
  return float(np.nanmedian(
    (wide.sel(source='workers') / wide.sel(source='examples')).values))


def predicted_band_ratio(config) -> float:
  """Predict that ratio where ‖∇F‖² is small.

  An unbiased estimate of ‖∇F‖² is a mean of products ⟨g_i, g_j⟩: of all pairs
  of n examples or, of W workers, only of pairs from two workers, a share
  (1 − 1/W)/(1 − 1/n) of them. The width goes by the root of their number.
  """
  n, workers = config.reference_batch_size, config.num_workers
  return float(np.sqrt((1 - 1 / n) / (1 - 1 / workers)))
