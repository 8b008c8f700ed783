"""What follows from inner products and norms of gradients in the records."""

import numpy as np

from experiments.report.columns import Column
from experiments.report.quantities import Columns


def grams(columns: Columns) -> dict[str, Column]:
  """Find matrices of inner products of gradients, [T, lanes, n, n] each."""
  return {name.removesuffix('gram').strip('_') or 'worker': column
          for name, column in columns.items()
          if name.endswith('gram') and column.values.ndim == 4
          and column.values.shape[-1] == column.values.shape[-2] > 1}


def measure(gram: np.ndarray) -> dict[str, np.ndarray]:
  """Measure how far the mean of n gradients can be trusted, from a sample.

  The norm test bounds the error of the mean over its norm; the inner-product
  test the part of it along the mean, the orthogonality test that across it.

  >>> {name: round(float(x), 2) for name, x in measure(np.eye(2)).items()}
  {'norm test': 1.0, 'inner-product test': 0.0, 'orthogonality test': 1.0}

  Args:
    gram: [..., n, n].
  """
  n = gram.shape[-1]
  along = gram.mean(-1)  # ⟨g_i, mean⟩
  sq_norm = along.mean(-1)
  own = np.diagonal(gram, axis1=-2, axis2=-1)
  degrees = n * (n - 1)
  with np.errstate(divide='ignore', invalid='ignore'):
    square = {
      'norm test': (own.sum(-1) - n * sq_norm) / degrees / sq_norm,
      'inner-product test': along.var(-1) / (n - 1) / sq_norm**2,
      'orthogonality test': (own - along**2 / sq_norm[..., None]).sum(
        -1) / degrees / sq_norm}
    return {name: np.sqrt(np.where(sq_norm > 0, np.maximum(x, 0), np.nan))
            for name, x in square.items()}


def cosines(gram: np.ndarray) -> np.ndarray:
  """Compute the cosines [..., n, n] between n gradients."""
  norms = np.sqrt(np.diagonal(gram, axis1=-2, axis2=-1))
  with np.errstate(divide='ignore', invalid='ignore'):
    return gram / (norms[..., :, None] * norms[..., None, :])


def example_norms(columns: Columns) -> tuple[np.ndarray, np.ndarray, int
                                             ] | None:
  """Find the norms of the last batch's gradients: (rows, norms, step)."""
  for name, power in (('example_norms', 1.), ('example_sq_norms', 0.5)):
    column = columns.get(name)
    if column is not None and column.values.ndim == 3:
      norms = column.values[-1, 0]**power
      rows = columns.get('example_rows')
      rows = (np.arange(len(norms)) if rows is None or rows.values.ndim != 3
              else rows.values[-1, 0])
      if len(rows) == len(norms) and np.isfinite(norms).sum() > 1:
        return rows, norms, int(column.steps[-1])
  return None
