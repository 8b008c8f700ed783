"""The published loop of agreement filtering, and gradients to filter."""

import functools

import jax
import numpy as np

import gradiv
from gradiv import weightings

RNG = np.random.default_rng(6)
SIZES = (1, 2, 5, 16)
THRESHOLDS = (0., 0.7, 0.9, 0.97, 1., 1.05, 2.)
EPS = np.finfo(np.float32).eps


def cosine(x, y):
  norms = np.linalg.norm(x) * np.linalg.norm(y)
  return x @ y / norms if norms > 0 else np.nan


def loop(rows, tau, combine, order=None):
  """The published loop, in float64: weights, and how close each call was.

  Weights are carried along only to be compared; decisions look at vectors.
  """
  n = len(rows)
  if combine == 'leave_one_out':
    distances = [1 - cosine(rows.sum(0) - g, g) for g in rows]
    kept = [i for i in range(n) if distances[i] <= tau]
    weights = np.zeros(n)
    weights[kept] = 1 / max(len(kept), 1)
    margins = [abs(d - tau) for d in distances if np.isfinite(d)]
  else:
    order = range(n) if order is None else order
    # A gradient of zero is no anchor.
    order = [i for i in order if rows[i].any()]
    if not order:
      return np.zeros(n), np.inf
    first, margins, weights = order[0], [], np.zeros(n)
    m, kept = rows[first], [first]
    weights[first] = 1
    for i in order[1:]:
      reference = rows[first] if combine == 'first' else m
      distance = 1 - cosine(reference, rows[i])
      if np.isfinite(distance):
        margins.append(abs(distance - tau))
      if not distance <= tau:
        continue
      add = 1 / 2 if combine == 'halving' else 1 / (len(kept) + 1)
      m = (1 - add) * m + add * rows[i]
      weights *= 1 - add
      weights[i] += add
      kept.append(i)
  if len(kept) < 2:
    weights[:] = 0
  return weights, min(margins, default=np.inf)


def gradients(kind, n, dim=600):
  rows = RNG.normal(size=(n, dim))
  return {
    'orthogonal': lambda: rows,
    'aligned': lambda: rows + 1.5 * RNG.normal(size=dim),
    'weakly aligned': lambda: rows + 0.2 * RNG.normal(size=dim),
    'conflicting': lambda: rows - 0.97 * rows.mean(0),
    'two camps': lambda: 0.7 * rows + RNG.normal(size=dim)
    * RNG.choice([-1, 1], (n, 1)),
    'lengths': lambda: (rows + RNG.normal(size=dim))
    * np.geomspace(1e-3, 1e3, n)[:, None],
    'copies': lambda: np.repeat(rows[:1], n, 0) * RNG.choice([1, 1, -1], (
      n, 1)),
    'some zero': lambda: rows * RNG.choice([0, 1], (n, 1)) + 0,
  }[kind]()


KINDS = ('orthogonal', 'aligned', 'weakly aligned', 'conflicting', 'two camps',
         'lengths', 'copies', 'some zero')


@functools.cache
def gram_of(n, dtype):
  """Compile one program for all inputs of a shape."""
  del n, dtype
  return gradiv.map_workers(lambda g: gradiv.worker_gram(g, 'workers'),
                            'workers', in_axes=(0,), out_axes=None)


@functools.cache
def weigh(combine, **options):
  """Compile one program for all thresholds."""
  return jax.jit(lambda gram, tau, key=None: weightings.agreement(
    tau, combine=combine, **options)(gram, key=key))
