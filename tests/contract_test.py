"""What every transformation promises, as a table, on every backend.

A row names a transformation and the properties that it claims; the tests
below run each claim on hard inputs.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl.testing import absltest, parameterized

import gradiv
from gradiv import axes
from tests import helpers


@dataclasses.dataclass(frozen=True)
class Row:
  name: str
  make: Callable[[axes.AxisName], optax.GradientTransformation]
  aggregates: bool  # the same update on every worker


TABLE = (
  Row('aggregate_by_mean', gradiv.aggregate_by_mean, True),
  Row('track_moments',
      lambda axis: gradiv.track_moments(axis, batch_size=4), False),
  Row('track_moments_by_layer',
      lambda axis: gradiv.track_moments(
        axis, batch_size=4, groups=gradiv.by_layer), False),
)
ROWS = [(row.name, row) for row in TABLE]
AGGREGATES = [(row.name, row) for row in TABLE if row.aggregates]
WORKERS = 8
RNG = np.random.default_rng(4)


def params(dtype=jnp.float32):
  return {'layer': {'kernel': jnp.ones((5, 3), dtype),
                    'bias': jnp.zeros(3, dtype)},
          'none': None, 'empty': (), 'scale': jnp.ones((), dtype)}


def gradients(kind='plain', workers=WORKERS, dtype=jnp.float32):
  draw = lambda x: RNG.normal(0.3, 1, (workers, *x.shape))
  tree = jax.tree.map(draw, params())
  change = {
    'plain': lambda g: g,
    'zero': lambda g: 0 * g,
    'equal': lambda g: np.broadcast_to(g[:1], g.shape),
    'rank_one': lambda g: g[:1] * np.arange(workers).reshape(
      -1, *(1,) * (g.ndim - 1)),
    'tiny': lambda g: 1e-10 * g,
    'huge': lambda g: 1e10 * g,
  }[kind]
  return jax.tree.map(lambda g: jnp.asarray(change(g), dtype), tree)


@functools.cache
def program(row, axis, backend):
  """One step of all workers, compiled once for all inputs of a shape."""
  tx = row.make(axis)
  return tx, gradiv.map_workers(
    lambda g, s: tx.update(g, s, None, unknown=1), axis, in_axes=(0, None),
    out_axes=(None if row.aggregates else 0, None), backend=backend)


def update(row, grads, axis='workers', backend='vmap'):
  """One step; the updates of all workers and the common state."""
  tx, mapped = program(row, axis, backend)
  return mapped(grads, tx.init(params(jax.tree.leaves(grads)[0].dtype)))


class ContractTest(parameterized.TestCase):

  @parameterized.named_parameters(*ROWS)
  def test_backends_agree(self, row):
    for kind in ('plain', 'zero', 'rank_one', 'tiny', 'huge'):
      grads = gradients(kind)
      reference = update(row, grads)
      for backend in axes.BACKENDS:
        for axis in ('workers', ('devices', 'virtual')):
          helpers.assert_close(
            update(row, grads, axis, backend), reference, 1e-5, 1e-30)

  @parameterized.named_parameters(*ROWS)
  def test_keeps_structure_shapes_and_dtypes(self, row):
    for dtype in (jnp.float32, jnp.bfloat16):
      grads = gradients(dtype=dtype)
      updates, state = update(row, grads)
      spec = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
      cut = lambda x: x if row.aggregates else x[0]
      self.assertEqual(spec(jax.tree.map(cut, updates)),
                       spec(jax.tree.map(lambda g: g[0], grads)))
      start = row.make('workers').init(params(dtype))
      self.assertEqual(spec(state), spec(start))
      self.assertEqual(jax.tree.structure(state), jax.tree.structure(start))

  @parameterized.named_parameters(*ROWS)
  def test_compiles_once(self, row):
    tx, traces = row.make('workers'), []

    def fn(g, s):
      traces.append(1)
      return tx.update(g, s)

    mapped = gradiv.map_workers(
      fn, 'workers', in_axes=(0, None),
      out_axes=(None if row.aggregates else 0, None))
    state = tx.init(params())
    for _ in range(3):
      _, state = mapped(gradients(), state)
    self.assertLen(traces, 1)

  @parameterized.named_parameters(*ROWS)
  def test_permuting_the_workers_changes_nothing(self, row):
    grads, order = gradients(), RNG.permutation(WORKERS)
    updates, state = update(row, grads)
    if not row.aggregates:
      updates = jax.tree.map(lambda x: x[order], updates)
    helpers.assert_close(
      update(row, jax.tree.map(lambda g: g[order], grads)),
      (updates, state), 1e-4, 1e-6)

  @parameterized.named_parameters(*ROWS)
  def test_without_workers_the_name_fails(self, row):
    tx = row.make('workers')
    with self.assertRaises(NameError):
      tx.update(params(), tx.init(params()))

  @parameterized.named_parameters(*AGGREGATES)
  def test_one_worker_or_equal_gradients(self, row):
    one, _ = update(row, gradients(workers=1))
    self.assertEqual(one['scale'].shape, ())
    grads = gradients('equal')
    updates, _ = update(row, grads)
    helpers.assert_close(updates, jax.tree.map(lambda g: g[0], grads))

  @parameterized.named_parameters(*AGGREGATES)
  def test_scale_covariance(self, row):
    grads = gradients()
    updates, _ = update(row, grads)
    scaled, _ = update(row, jax.tree.map(lambda g: -3 * g, grads))
    helpers.assert_close(
      scaled, jax.tree.map(lambda u: -3 * u, updates), 1e-5)


class MeanTest(parameterized.TestCase):

  @parameterized.named_parameters(*helpers.ON_ALL)
  def test_is_the_mean(self, backend, axis, workers):
    grads = gradients(workers=workers)
    updates, _ = update(TABLE[0], grads, axis, backend)
    mean = jax.tree.map(lambda g: np.asarray(g, np.float64).mean(0), grads)
    helpers.assert_close(updates, mean, 1e-5, 1e-7)

  def test_bfloat16_rounds_once(self):
    grads = {'layer': jnp.asarray(
      np.r_[256., np.ones(255)], jnp.bfloat16)}
    tx = gradiv.aggregate_by_mean('workers')
    mean = jax.vmap(lambda g: tx.update(g, ())[0], axis_name='workers',
                    out_axes=None)(grads)
    # In bfloat16, 256 + 1 is 256: the sum would stay there.
    self.assertEqual(mean['layer'], jnp.bfloat16(511 / 256))


if __name__ == '__main__':
  absltest.main()
