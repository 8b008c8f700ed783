"""What `gradiv.advise` would say at the end of the tracked runs."""

import numpy as np
import xarray as xr

import gradiv


def of_run(config, bands: xr.Dataset) -> gradiv.diversity.Advice:
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


def of_first_runs(config, bands: xr.Dataset) -> xr.Dataset:
  """Return the 'advice' [replication] at the end of the first seed's run."""
  first = bands.sel(source='workers').isel(seed=0)
  return xr.Dataset({'advice': ('replication', [
    str(of_run(config, first.isel(replication=i)))
    for i in range(first.sizes['replication'])])})
