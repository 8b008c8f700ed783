"""What `gradiv.advise` says at the points of the trunk."""

import xarray as xr

import gradiv
from experiments.critical_batch.analysis import TRACKED
from experiments.critical_batch.optimizers import reading_of


def at_points(config, domain: str, done) -> xr.Dataset:
  """Return what is said at the points where the parts of the trunk end."""
  trunk = xr.concat([done[f'{domain}_trunk_{i}'][list(TRACKED)].isel(step=-1)
                     for i in range(len(config.points))], 'point')
  return of_readings(trunk, config.setting(domain).batch_size)


def of_readings(trunk: xr.Dataset, batch_size: int) -> xr.Dataset:
  """Return the 'advice' [point] that the first seed's readings give."""
  first, said = trunk.isel(seed=0), []
  for i in range(trunk.sizes['point']):
    reading = reading_of(
      {name: float(first[name].isel(point=i)) for name in TRACKED})
    said.append(str(gradiv.advise(reading, batch_size)))
  return xr.Dataset({'advice': ('point', said)})
