"""What the windows of `track_moments` know of B_S, against the exact one."""

import numpy as np
import xarray as xr


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
