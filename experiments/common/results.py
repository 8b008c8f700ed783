"""Small statistics of labeled results, as JSON can hold them."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr


def mean_and_error(runs: Any) -> list[float | None]:
  """Return the mean of [runs] and its standard error; None where unknown.

  >>> mean_and_error([1., 3.]), mean_and_error([1.]), mean_and_error([math.inf])
  ([2.0, 1.0], [1.0, None], [None, None])
  """
  x = np.asarray(runs, float)
  if not np.isfinite(x).all():
    return [None, None]
  error = x.std(ddof=1) / np.sqrt(len(x)) if len(x) > 1 else None
  return [float(x.mean()), None if error is None else float(error)]


def lookup(x: xr.DataArray, *dims: str, rest: Sequence[str] = ()
           ) -> dict[tuple, np.ndarray]:
  """Make a dictionary of x [*dims, *rest]: coordinates of dims -> [*rest].

  Thousands of lanes look up what they depend on; `x.sel` takes as many
  milliseconds.

  >>> x = xr.DataArray([5., 7.], {'seed': [0, 1]}, 'seed')
  >>> {at: float(found) for at, found in lookup(x, 'seed').items()}
  {(0,): 5.0, (1,): 7.0}
  """
  values = x.transpose(*dims, *rest).values
  places = itertools.product(*(x[dim].values.tolist() for dim in dims))
  return dict(zip(places, values.reshape(-1, *values.shape[len(dims):])))


def known(x: float) -> float | None:
  """Return a number as JSON can hold it: None where it is not finite."""
  return float(x) if math.isfinite(x) else None
