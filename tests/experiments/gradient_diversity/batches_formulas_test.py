"""How runs are reduced: rates, counts, predictions and windows."""

import dataclasses

import jax
import numpy as np
import xarray as xr
from absl.testing import absltest, parameterized

import gradiv
from experiments.gradient_diversity.batches import (
  advice,
  analysis,
  coverage,
  windows,
)
from tests.experiments.gradient_diversity.small import SMALL


class FormulaTest(parameterized.TestCase):

  def test_gradients_to_target(self):
    def count(loss, target):
      found = analysis.gradients_to_target(
        dataclasses.replace(SMALL, target_loss=float(target)),
        xr.DataArray(np.asarray(loss, float), {'pass': [0., 1., 2., 4.]}))
      return float(found) * 100 / 64  # of 100 examples

    falling = np.exp(-np.array([0., 1., 2., 4.]))
    self.assertAlmostEqual(count(falling, np.exp(-1.5)), 150)
    self.assertAlmostEqual(count(falling, np.exp(-3)), 300)
    self.assertEqual(count(falling, 2.0), 0)
    self.assertEqual(count(falling, 1e-9), np.inf)
    self.assertEqual(count([3., np.inf, np.inf, np.inf], 0.1), np.inf)
    # The first time counts, also where the loss rises again.
    self.assertAlmostEqual(count([1., np.exp(-2), 5., 5.], np.exp(-1)), 50)

  def test_tuned_rates_leave_out_what_diverged(self):
    loss = [[[[1., 0.5, 0.4]] * 2, [[1., 0.1, 0.1], [1., np.nan, np.nan]]]]
    run = xr.Dataset(
      {'loss': (('replication', 'rate', 'seed', 'step'), loss)},
      {'replication': [1.], 'rate': [0.1, 0.4], 'step': [0, 4, 8]})
    config = dataclasses.replace(
      SMALL, batch_sizes=(16,), replications=(1.,))
    found = analysis.best_rates(analysis.losses(
      config, {'sweep/batch_00016': run}))
    self.assertEqual(found.sel(replication=1, batch=16), 0.1)

  def test_prediction_at_a_constant_noise_scale(self):
    rho, b = 40., 16
    axes, shape = ('replication', 'seed', 'step'), (2, 2, 9)
    passes = np.arange(9.)
    run = xr.Dataset(
      {'loss': (axes, np.tile(4 * np.exp(-passes), (2, 2, 1))),
       'exact_variance': (axes, np.full(shape, 2 * rho)),
       'exact_sq_norm': (axes, np.full(shape, 2.))},
      {'step': 4 * passes, 'passes': ('step', passes)})
    counts = xr.DataArray(
      np.tile([100., 140.], (2, 2, 1)), {'batch': [16, 32]},
      ('replication', 'batch', 'seed'))
    found = analysis.predicted_growth(SMALL, counts, run)
    np.testing.assert_allclose(found.sel(batch=16), 1)
    np.testing.assert_allclose(found.sel(batch=32), (32 + rho) / (b + rho))


class WindowTest(parameterized.TestCase):

  def test_constant_steps_give_their_own_ratio(self):
    found = windows.band(np.full((2, 50), 3.), np.full((2, 50), 9.))
    np.testing.assert_allclose(found.value[:, 1:], 0.25, 1e-5)
    # No spread, no width; one step alone says nothing.
    for end in (found.low, found.high, found.bound):
      np.testing.assert_allclose(end[:, 20:], 0.25, 1e-3)  # rounding
    np.testing.assert_array_equal(found.low[:, 0], 0)
    np.testing.assert_array_equal(found.high[:, 0], 1)
    self.assertTrue((found.window[:, 20:] > 0).all())

  def test_replays_what_is_tracked(self):
    rng = np.random.default_rng(0)
    signal, noise = rng.normal(1, 1, (2, 40)), rng.gamma(9, 1, (2, 40))
    found = windows.band(signal, noise)
    tx = gradiv.track_moments()
    state = tx.init(())
    update = jax.jit(lambda s, m: tx.update((), s, moments=m)[1])
    for g, s in zip(signal[1], noise[1]):
      state = update(state, gradiv.Moments(
        *np.float32([8, 1, g + s / 8, s * 7 / 8])))
    reading = gradiv.read_moments(state)
    np.testing.assert_allclose(
      1 / found.bound[1, -1], reading.batch_size_at_least, 1e-3)
    np.testing.assert_allclose(found.value[1, -1], (
      gradiv.inverse_batch_size_bound(reading.estimate)), 1e-3)
    self.assertEqual(found.window[1, -1], reading.window)

  def test_the_truth_is_that_of_the_same_window(self):
    """Without noise the estimates are exact, also while all falls."""
    t = np.arange(200.)
    signal, noise = np.exp(-.02 * t)[None], 9 * np.exp(-.01 * t)[None]
    found = windows.band(signal, noise)
    np.testing.assert_allclose(
      windows.exact(signal, noise, found)[:, 1:], found.value[:, 1:], 1e-3)

  def test_bands_begin_with_the_shortest_full_window(self):
    axes = ('replication', 'seed', 'step')
    names = ('step_sq_norm', 'step_variance', 'example_step_sq_norm',
             'example_step_variance', 'exact_sq_norm', 'exact_variance')
    for steps, first in ((41, 16), (9, 8)):
      run = xr.Dataset(
        {name: (axes, np.full((1, 2, steps), 2.)) for name in names},
        {'step': np.arange(steps), 'passes': ('step', np.arange(1. * steps))})
      bands = windows.windowed(run)
      np.testing.assert_array_equal(bands['step'], np.arange(first, steps))
      np.testing.assert_allclose(bands['exact'], 0.5)
    self.assertEqual(coverage.band_ratio(
      bands.assign(low=0 * bands['low'], high=1 + 0 * bands['high'])), 1)

  def test_truth_is_told_by_the_interval_or_else_by_the_bound(self):
    axes = ('seed', 'step')
    names = ('window', 'low', 'high', 'bound', 'exact')
    rows = {  # in turn: right, wrong, right, wrong
      'window': (16, 16, 0, 0), 'low': (.1, .1, 0, 0), 'high': (.2, .2, 1, 1),
      'bound': (.1, .9, .9, .1), 'exact': (.15, .3, .3, .3)}
    bands = xr.Dataset({name: (axes, [rows[name]] * 2) for name in names})
    np.testing.assert_allclose(coverage.told(bands), [.5, .5])
    np.testing.assert_allclose(coverage.covered(bands), [.5, .5])
    np.testing.assert_allclose(coverage.known(bands), [.5, .5])

  def test_advice_is_that_of_the_last_record(self):
    found = windows.band(np.full(50, 1.), np.full(50, 99.))
    bands = xr.Dataset({name: ('step', x) for name, x in
                        found._asdict().items()})
    for window, words in ((16, 'far below B_S, 100'), (0, 'at least 100')):
      self.assertIn(words, str(advice.of_run(
        SMALL, bands.assign(
          window=0 * bands['window'] + window,
          steps_until_known=bands['steps_until_known'] * np.nan))))


if __name__ == '__main__':
  absltest.main()
