"""The gains that AdaScale would have along the run of the small batch."""

import numpy as np
import xarray as xr

import gradiv
from experiments.adascale import analysis


def exact(config, done) -> xr.Dataset:
  """Compute 'gain' [scale, seed, step] from exact moments."""
  base = analysis.small_batch(done)
  estimate = gradiv.Estimate(base['sq_norm'].values, base['variance'].values)
  gains = [gradiv.adascale_gain(
    estimate, batch_size=config.batch_size, scale=s) for s in config.scales]
  return xr.Dataset({'gain': (('scale', *base['sq_norm'].dims),
                              np.stack(gains))})
