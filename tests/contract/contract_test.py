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
import pytest
from absl.testing import absltest, parameterized

import gradiv
from gradiv import weightings, workers as workers_lib
from tests import helpers


@dataclasses.dataclass(frozen=True)
class Row:
  """A transformation, and what it claims.

  Attributes:
    make: axis name -> transformation.
    aggregates: Gives the same update to every worker.
    permutes: Does not care about the order of the workers.
    scales: Gives c times the update for c times the gradients, c > 0.
    flips: And for c < 0.
    keeps: Gives g where all gradients are g, up to `gain`.
    leaves_out: Acts as if a worker whose gradient is not finite was not there.
    rtol: Of what is compared to a permutation, a scaling or fewer workers.
    is_weighed: Is `aggregate_by_weights`, with another weighting.
  """

  name: str
  make: Callable[[workers_lib.AxisName], optax.GradientTransformation]
  aggregates: bool = True
  permutes: bool = True
  scales: bool = True
  flips: bool = True
  gain: float | None = 1.0
  leaves_out: bool = True
  rtol: float = 1e-4
  is_weighed: bool = False


WORKERS = 8
KEY = jax.random.key(7)
w = weightings


def weighed(name, weighting, **kwargs):
  options = {k: kwargs.pop(k) for k in ('key', 'num_workers', 'layout')
             if k in kwargs}
  make = lambda axis: gradiv.aggregate_by_weights(weighting, axis, **options)
  return Row(name, make, is_weighed=True, **kwargs)


def agreed(name, **options):
  make = lambda axis: gradiv.aggregate_by_agreement(1.0, axis, **options)
  free = options.get('combine') == 'leave_one_out'
  return Row(f'agreement_{name}', make, permutes=free,
             # The order of fewer workers is another draw.
             leaves_out='key' not in options)


TABLE = (
  Row('aggregate_by_mean', gradiv.aggregate_by_mean),
  Row('track_moments',
      lambda axis: gradiv.track_moments(axis, batch_size=4),
      aggregates=False),
  Row('track_moments_by_layer',
      lambda axis: gradiv.track_moments(
        axis, batch_size=4, groups=gradiv.by_layer), aggregates=False),
  Row('drop_updates', lambda axis: gradiv.drop_updates(
    0.3, key=KEY, axis_name=axis), aggregates=False, permutes=False),
  Row('langevin_noise', lambda axis: gradiv.add_langevin_noise(
    0.1, key=KEY, axis_name=axis), aggregates=False, permutes=False),
  Row('quantize_updates', lambda axis: gradiv.quantize_updates(
    2, key=KEY, axis_name=axis), aggregates=False, permutes=False),
  *(Row(f'quantized_mean_{bits}', functools.partial(
      gradiv.aggregate_by_quantized_mean, bits, key=KEY),
      # Rounded by draws of the worker and of the place.
      permutes=False, flips=False, gain=None, leaves_out=False)
    for bits in (8, 4)),
  Row('low_rank', lambda axis: gradiv.aggregate_by_low_rank(
    1, axis, key=KEY), gain=None),
  *(agreed(combine, combine=combine) for combine in weightings.COMBINE),
  agreed('shuffled', key=KEY),
  agreed('any_anchor', num_anchors=8),
  agreed('mean_else', fallback='mean'),
  agreed('by_layer', layout=gradiv.Layout(groups=gradiv.by_layer)),
  agreed('windowed', window=20),
  Row('median', gradiv.aggregate_by_median),
  Row('trimmed_mean', lambda axis: gradiv.aggregate_by_trimmed_mean(2, axis)),
  Row('sign_agreement',
      lambda axis: gradiv.aggregate_by_sign_agreement(0.4, axis)),
  Row('sign_agreement_normalized',
      lambda axis: gradiv.aggregate_by_sign_agreement(
        0.4, axis, normalize=True)),
  Row('smooth_sign_agreement',
      lambda axis: gradiv.aggregate_by_smooth_sign_agreement(0.4, axis),
      scales=False, flips=False),
  Row('sign_majority', gradiv.aggregate_by_sign_majority,
      scales=False, flips=False, gain=None),
  Row('sign_dropout',
      lambda axis: gradiv.aggregate_by_sign_dropout(axis, key=KEY),
      # Fewer workers hold other slices, and draw anew.
      flips=False, gain=WORKERS, leaves_out=False),
  Row('bulyan', lambda axis: gradiv.aggregate_by_bulyan(0, axis)),
  weighed('krum', w.krum(1, 3)),
  weighed('geometric_median', w.geometric_median()),
  weighed('weights_of_a_function', lambda gram: jnp.ones(len(gram)) / len(
    gram), leaves_out=False),
  weighed('mean_weights', w.mean(), num_workers=WORKERS,
          leaves_out=False),  # declared to be eight
  weighed('norm_clipping', w.norm_clipping(1.0), scales=False, gain=None),
  weighed('centered_clipping', w.centered_clipping(1.0), scales=False,
          gain=None),
  weighed('mixed_krum', w.nearest_neighbor_mixing(1, w.krum(1))),
  # Several sets may share the pair that is farthest apart; the first counts.
  weighed('minimum_diameter', w.minimum_diameter(2), permutes=False),
  # The first of sets as large.
  weighed('max_neighbors', w.max_neighbors(0.9), permutes=False),
  weighed('adasum', w.adasum(), permutes=False),
  # Its update is of the length of one gradient, whatever their lengths.
  weighed('adacons', w.adacons(), num_workers=WORKERS, scales=False,
          gain=None, leaves_out=False),
  # Whose turn it is, is drawn by the number of the worker.
  weighed('pcgrad', w.pcgrad(), key=KEY, permutes=False, gain=WORKERS,
          leaves_out=False, rtol=1e-3),
  weighed('gradvac', w.gradvac(), key=KEY, num_workers=WORKERS,
          permutes=False, gain=WORKERS, leaves_out=False, rtol=1e-3),
  weighed('mgda', w.mgda()),
  weighed('cagrad', w.cagrad(), gain=1.5, rtol=1e-3),
  # A product of gains knows no scale.
  weighed('nash_mtl', w.nash_mtl(), scales=False, gain=None, rtol=1e-3),
  weighed('imtl_g', w.imtl_g(), rtol=1e-3),
  weighed('conflict_free', w.conflict_free(), gain=WORKERS, rtol=1e-3),
  weighed('aligned_mtl', w.aligned_mtl('rmse'), rtol=1e-3),
  weighed('upgrad', w.upgrad(), rtol=1e-3),
  weighed('dual_proj', w.dual_proj(), rtol=1e-3),
  weighed('dual_proj_by_layer', w.dual_proj(), rtol=1e-3,
          layout=gradiv.Layout(groups=gradiv.by_layer)),
)
ROWS = [(row.name, row) for row in TABLE]
AGGREGATES = [(row.name, row) for row in TABLE if row.aggregates]
claiming = lambda claim: [
  (row.name, row) for row in TABLE if row.aggregates and getattr(row, claim)]
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
    'one_nan': lambda g: np.where(np.arange(workers).reshape(
      -1, *(1,) * (g.ndim - 1)) == workers // 2, np.nan, g),
  }[kind]
  return jax.tree.map(lambda g: jnp.asarray(change(g), dtype), tree)


def spoiled(grads, bad):
  """Put one bad number into the gradient of one worker."""
  kernel = grads['layer']['kernel'].at[3, 1, 2].set(bad)
  return grads | {'layer': grads['layer'] | {'kernel': kernel}}


@functools.cache
def program(row, axis, backend):
  """One step of all workers, compiled once for all inputs of a shape."""
  tx, traces = row.make(axis), []

  def fn(g, s):
    traces.append(1)
    return tx.update(g, s, None, unknown=1)

  return tx, traces, gradiv.map_workers(
    fn, axis, in_axes=(0, None),
    out_axes=(None if row.aggregates else 0, None), backend=backend)


def update(row, grads, axis='workers', backend='vmap'):
  """One step; the updates of all workers and the common state."""
  tx, _, mapped = program(row, axis, backend)
  return mapped(grads, tx.init(params(jax.tree.leaves(grads)[0].dtype)))


class ContractTest(parameterized.TestCase):

  def compare(self, row, *backends):
    for kind in ('plain', 'zero', 'rank_one', 'tiny', 'huge', 'one_nan'):
      grads = gradients(kind)
      reference = update(row, grads)
      for backend, axis in backends:
        helpers.assert_close(
          update(row, grads, axis, backend), reference, 1e-5, 1e-30,
          of_largest=1e-6)

  @parameterized.named_parameters(*ROWS)
  def test_backends_agree(self, row):
    pmap = () if row.is_weighed else (('pmap', 'workers'),)
    self.compare(row, ('shard_map', ('devices', 'virtual')), *pmap)

  # All share one wire, of which other rows show that it is the same on pmap.
  @parameterized.named_parameters(
    *[(row.name, row) for row in TABLE if row.is_weighed])
  @pytest.mark.slow
  def test_so_does_pmap(self, row):
    self.compare(row, ('pmap', 'workers'))

  @parameterized.named_parameters(*ROWS)
  def test_keeps_structure_shapes_and_dtypes(self, row):
    for dtype in (jnp.float32, jnp.bfloat16):
      grads = gradients(dtype=dtype)
      # Traced: what the values are, other tests ask.
      updates, state = jax.eval_shape(lambda g: update(row, g), grads)
      spec = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
      cut = lambda x: (x.shape if row.aggregates else x.shape[1:], x.dtype)
      self.assertEqual(jax.tree.map(cut, updates),
                       spec(jax.tree.map(lambda g: g[0], grads)))
      start = row.make('workers').init(params(dtype))
      self.assertEqual(spec(state), spec(start))
      self.assertEqual(jax.tree.structure(state), jax.tree.structure(start))

  @parameterized.named_parameters(*ROWS)
  def test_compiles_once(self, row):
    tx, traces, mapped = program(row, 'workers', 'vmap')
    state = tx.init(params())
    _, state = mapped(gradients(), state)
    before = len(traces)
    for _ in range(2):
      _, state = mapped(gradients(), state)
    self.assertLen(traces, before)

  @parameterized.named_parameters(
    *[(row.name, row) for row in TABLE if row.permutes])
  def test_permuting_the_workers_changes_nothing(self, row):
    grads, order = gradients(), RNG.permutation(WORKERS)
    updates, state = update(row, grads)
    if not row.aggregates:
      updates = jax.tree.map(lambda x: x[order], updates)
    if len(getattr(state, 'weights', ())) == WORKERS:
      state = state._replace(weights=state.weights[order])
    helpers.assert_close(
      update(row, jax.tree.map(lambda g: g[order], grads)),
      (updates, state), row.rtol, 1e-6)

  @parameterized.named_parameters(*ROWS)
  def test_without_workers_the_name_fails(self, row):
    tx = row.make('workers')
    with self.assertRaises(NameError):
      tx.update(params(), tx.init(params()))

  @parameterized.named_parameters(*claiming('gain'))
  def test_keeps_what_all_agree_on(self, row):
    grads = gradients('equal')
    updates, _ = update(row, grads)
    helpers.assert_close(
      updates, jax.tree.map(lambda g: row.gain * g[0], grads), row.rtol)

  @parameterized.named_parameters(*claiming('scales'))
  def test_scale_covariance(self, row):
    grads = gradients()
    updates, _ = update(row, grads)
    for scale in (3, -3) if row.flips else (3,):
      scaled, _ = update(row, jax.tree.map(lambda g: scale * g, grads))
      helpers.assert_close(
        scaled, jax.tree.map(lambda u: scale * u, updates), row.rtol, 1e-6)

  @parameterized.named_parameters(*AGGREGATES)
  def test_counts_what_is_not_finite(self, row):
    grads, seen = gradients(), []
    for bad in (np.nan, np.inf, 1e30):  # too long to be squared
      seen.append(update(row, spoiled(grads, bad)))
      self.assertEqual(seen[-1][1].num_left_out, 1)
      for leaf in jax.tree.leaves(seen[-1][0]):
        self.assertTrue(np.isfinite(leaf).all())
      helpers.assert_same(seen[-1], seen[0])

  @parameterized.named_parameters(*claiming('leaves_out'))
  def test_acts_as_if_it_was_not_there(self, row):
    grads = gradients()
    rest = jax.tree.map(lambda g: np.delete(g, 3, 0), grads)
    updates, _ = update(row, spoiled(grads, np.nan))
    helpers.assert_close(updates, update(row, rest)[0], row.rtol, 1e-6)

  @parameterized.named_parameters(*AGGREGATES)
  def test_nothing_is_left(self, row):
    grads = jax.tree.map(lambda g: np.nan * g, gradients())
    updates, state = update(row, grads)
    self.assertEqual(state.num_left_out, WORKERS)
    for leaf in jax.tree.leaves(updates):
      self.assertTrue(np.all(np.asarray(leaf) == 0))


if __name__ == '__main__':
  absltest.main()
