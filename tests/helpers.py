"""Helpers of several tests: runs on all backends, and comparisons of trees."""

import contextlib
import functools

import jax
import numpy as np

import gradiv
from gradiv import workers as workers_lib

# Name, axis name, number of workers: one per device, and several.
LAYOUTS = (
  ('one_each', 'workers', 8),
  ('several_each', ('devices', 'virtual'), 16),
)
ON_ALL = [
  (f'{backend}_{name}', backend, axis_name, workers)
  for backend in workers_lib.BACKENDS for name, axis_name, workers in LAYOUTS
]
# Each backend, and each layout, once or twice: what the default run takes.
ON_EACH = [ON_ALL[i] for i in (0, 2, 5)]
ON_THE_REST = [case for case in ON_ALL if case not in ON_EACH]


def on_workers(fn, private, common=(), axis_name='workers', backend='vmap',
               out_axes=None, devices=None):
  """Run ``fn(private, common)`` with one row of `private` per worker."""
  mapped = gradiv.map_workers(fn, axis_name, in_axes=(0, None),
                              out_axes=out_axes, backend=backend,
                              devices=devices)
  return mapped(private, common)


@functools.cache
def step_of(tx, axis_name='workers', backend='vmap'):
  """Map an aggregation over workers once for all inputs of a shape."""
  return gradiv.map_workers(
    lambda g, s: tx.update(g, s), axis_name, in_axes=(0, None),
    out_axes=None, backend=backend)


@functools.cache
def _moments(backend, batch_size):
  return gradiv.map_workers(
    lambda g: gradiv.worker_moments(g, 'workers', batch_size=batch_size),
    'workers', out_axes=None, backend=backend)


def moments_of(grads, backend='vmap', batch_size=1):
  """Compute the moments of one float32 gradient per worker."""
  return _moments(backend, batch_size)(np.asarray(grads, np.float32))


@contextlib.contextmanager
def double_precision():
  """Compute in float64 within a `with` block."""
  jax.config.update('jax_enable_x64', True)
  try:
    yield
  finally:
    jax.config.update('jax_enable_x64', False)


def raw(x):
  """Return an array in NumPy, or the bits of a random key."""
  is_key = jax.dtypes.issubdtype(
    getattr(x, 'dtype', None), jax.dtypes.prng_key)
  return np.asarray(jax.random.key_data(x) if is_key else x)


def assert_close(actual, desired, rtol=1e-6, atol=0.0, of_largest=0.0):
  """Compare two trees leaf by leaf, their structures included.

  `of_largest` tolerates that fraction of the largest element of a leaf as well.
  """
  assert jax.tree.structure(actual) == jax.tree.structure(desired), (
    jax.tree.structure(actual), jax.tree.structure(desired))

  def compare(a, b):
    a, b = raw(a).astype(np.float64), raw(b).astype(np.float64)
    largest = np.abs(b[np.isfinite(b)]).max(initial=0)
    np.testing.assert_allclose(a, b, rtol, atol + of_largest * largest)

  jax.tree.map(compare, actual, desired)


def assert_same(actual, desired):
  """Compare two trees bit for bit."""
  assert jax.tree.structure(actual) == jax.tree.structure(desired)
  for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(actual),
                          jax.tree.leaves(desired)):
    a, b = raw(a), raw(b)
    assert a.dtype == b.dtype and a.tobytes() == b.tobytes(), (
      jax.tree_util.keystr(path), a, b)


def assert_mean(samples, expected, axis=0, rounding=0.0):
  """Accept a mean within 4 standard errors of the sample.

  `rounding` tolerates that fraction of the expected value as well: the rounding
  of float32, if some of the samples do not vary.
  """
  samples = np.asarray(samples, np.float64)
  error = samples.std(axis, ddof=1) / np.sqrt(samples.shape[axis])
  gap = np.abs(samples.mean(axis) - expected)
  allowed = 4 * error + 1e-12 + rounding * np.abs(expected)
  assert np.all(gap <= allowed), (samples.mean(axis), expected, error)
