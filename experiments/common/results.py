"""Small statistics of labeled results, as JSON can hold them."""

import math
from typing import Any

import numpy as np


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


def known(x: float) -> float | None:
  """Return a number as JSON can hold it: None where it is not finite."""
  return float(x) if math.isfinite(x) else None
