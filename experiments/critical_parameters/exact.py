"""What `theory` predicts for all settings of the simulated studies."""

import math

import numpy as np
import xarray as xr

from experiments.critical_parameters import theory


def steps(config) -> xr.Dataset:
  """Predict the 'exact' steps on least squares from the best rate r*.

  [dimension, staleness, batch_size], without label noise.
  """
  def of_cell(d, tau, b):
    rate, _ = theory.best_rate((d + 1) / b, int(tau))
    return math.log(config.target) / math.log1p(-rate)

  return _of_cells('exact', of_cell, {
    'dimension': config.dimensions, 'staleness': config.stalenesses,
    'batch_size': config.batch_sizes})


def limits(config) -> xr.Dataset:
  """Compute the largest stable rates, and c along the delays.

  'limit' [dimension, batch_size, staleness], and 'curve' [batch_size,
  dimension, delay], c = (τ + 1 + M/b) times that, for more delays.
  """
  of_cell = lambda d, b, tau: theory.mean_square_limit((d + 1) / b, int(tau))
  c = lambda b, d, tau: (tau + 1 + (d + 1) / b) * of_cell(d, b, tau)
  sizes, delays = config.batch_sizes[::2], config.stalenesses[:-1]
  shown = np.unique(np.geomspace(
    1, delays[-1] + 1, 40).round().astype(int) - 1)
  return _of_cells('limit', of_cell, {
    'dimension': config.dimensions, 'batch_size': sizes, 'staleness': delays,
  }).merge(_of_cells('curve', c, {
    'batch_size': sizes, 'dimension': config.dimensions, 'delay': shown}))


def _of_cells(name, compute, axes) -> xr.Dataset:
  """Compute a number for each cell of the product of the axes."""
  at = {key: xr.DataArray(list(x), dims=key) for key, x in axes.items()}
  return xr.Dataset(
    {name: xr.apply_ufunc(compute, *at.values(), vectorize=True)},
    {key: list(x) for key, x in axes.items()})
