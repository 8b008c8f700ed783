"""How runs are reduced: rates, counts, predictions and windows."""

import dataclasses

import numpy as np
import xarray as xr
from absl.testing import absltest, parameterized

from experiments.gradient_diversity.batches import analysis, windows
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
    found = analysis.tuned_rates(config, {'sweep/batch_00016': run})
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
    found = windows.band(np.full((2, 50), 3.), np.full((2, 50), 9.), 10)
    np.testing.assert_allclose(found.value, 0.25)
    # No spread, no width; one step alone says nothing.
    np.testing.assert_allclose(found.low[:, 10:], 0.25, atol=1e-6)
    np.testing.assert_allclose(found.high[:, 10:], 0.25, atol=1e-6)
    np.testing.assert_array_equal(found.low[:, 0], 0)
    np.testing.assert_array_equal(found.high[:, 0], 1)

  def test_the_scale_is_known_before_the_step(self):
    noise = np.random.default_rng(0).uniform(1, 2, (3, 20))
    later = noise.copy()
    later[:, 12:] *= 7
    np.testing.assert_array_equal(
      windows.scale_before(noise)[:, :13], windows.scale_before(later)[:, :13])
    np.testing.assert_allclose(windows.scale_before(np.full((1, 9), 5.)), 5.)

  @parameterized.parameters(1., 0.99)
  def test_covers_the_average_also_while_all_falls(self, fall):
    """tr Σ falls by 1 % a step, ‖∇F‖² by 2 %; 400 runs, one look each."""
    rng = np.random.default_rng(1)
    noise = 40 * fall**np.arange(200.)
    signal = fall**(2. * np.arange(200))
    # ‖mean of four Gaussian workers‖², in ten dimensions, less its bias.
    grads = rng.normal(size=(400, 4, 200, 10)) * np.sqrt(noise / 10)[:, None]
    grads[..., 0] += np.sqrt(signal)
    variance = grads.var(1, ddof=1).sum(-1)
    square = (grads.mean(1)**2).sum(-1) - variance / 4
    found = windows.band(square, variance, 64)
    exact = windows.exact(
      np.tile(signal, (400, 1)), np.tile(noise, (400, 1)),
      windows.scale_before(variance), 64)
    share = ((found.low <= exact) & (exact <= found.high))[:, -1].mean()
    self.assertBetween(share, 0.91, 1.)

  def test_bands_begin_with_the_first_full_window(self):
    axes = ('replication', 'seed', 'step')
    names = ('step_sq_norm', 'step_variance', 'example_step_sq_norm',
             'example_step_variance', 'exact_sq_norm', 'exact_variance')
    run = xr.Dataset({name: (axes, np.full((1, 2, 9), 2.)) for name in names},
                     {'step': np.arange(9), 'passes': ('step', np.arange(9.))})
    bands = analysis.windowed(SMALL, run)
    np.testing.assert_array_equal(bands['step'], np.arange(3, 9))
    np.testing.assert_allclose(bands['exact'], 0.5)
    self.assertEqual(analysis.band_ratio(
      bands.assign(low=0 * bands['low'], high=1 + 0 * bands['high'])), 1)


if __name__ == '__main__':
  absltest.main()
