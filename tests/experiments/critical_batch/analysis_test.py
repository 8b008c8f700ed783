"""The critical batch size of known laws, its claims, and its tables."""

import math

import numpy as np
import xarray as xr
from absl.testing import absltest, parameterized

from experiments.critical_batch import analysis, claims
from tests.experiments.critical_batch import small

SETTING = small.CONFIG.setting('images')


class SizesTest(parameterized.TestCase):

  @parameterized.parameters(
    ((0, 0, 0), math.inf),
    ((0, 0.1, 0.3), 16 * 2 ** 1.5),
    ((0, 0.4, 0.1, 0.3), 64 * 2 ** 0.5),  # the largest within
    ((0, 0.4), 16 * 2 ** 0.5),
    ((0.4, 0.5), 16))
  def test_crossing(self, excess, size):
    sizes = [16 * 2**i for i in range(len(excess))]
    self.assertAlmostEqual(analysis.crossing(sizes, excess, 0.2), size)

  @parameterized.parameters(40, 100, 150)
  def test_prediction_and_branches_agree_where_the_law_holds(self, noise):
    """To the error of an interpolation between powers of two."""
    log_loss = small.log_losses(noise)
    signals = np.full(4, 1 / (1 + noise))
    share = 1 - math.log(1.1)  # where the small batch comes to the tolerance
    closed = 16 / share + noise * (1 - share) / share
    self.assertAlmostEqual(
      analysis.predicted(SETTING, log_loss, signals), closed, 4)
    self.assertAlmostEqual(
      analysis.measured(SETTING, log_loss) / closed, 1, delta=0.03)
    self.assertAlmostEqual(analysis.bound(signals), 1 + noise, 4)

  def test_a_loss_that_stays_is_within_from_the_start(self):
    log_loss = small.log_losses(100, decay=0.0)
    self.assertEqual(
      analysis.predicted(SETTING, log_loss, np.full(4, 0.01)), math.inf)
    self.assertEqual(analysis.measured(SETTING, log_loss), math.inf)

  def test_of_no_signal_the_bound_is_finite(self):
    self.assertAlmostEqual(analysis.bound(np.array([-0.1, 0.05])), 1e4)

  def test_ramps_follow_the_sizes(self):
    found = small.reduced()['images']
    plans = analysis.plans(SETTING, found)
    self.assertEqual(plans['bound'], (2, 4, 8))  # B_S = 51, 101, 201
    for arm, at in (('predicted', 20), ('measured', 20)):
      self.assertEqual(plans[arm], (1, 1, 2), at)

  def test_smooth_halves_the_past_and_a_lost_run_did_not_begin(self):
    loss = xr.DataArray([[4.0, 2.0, 1.0], [4.0, math.nan, math.nan]],
                        dims=('seed', 'step'), coords={'step': [0, 1, 2]})
    np.testing.assert_allclose(np.exp(analysis.smooth(loss).T),
                               [[4, 3, 2], [4, 4, 4]])


class ClaimsTest(parameterized.TestCase):

  def verdicts(self, **given):
    found = claims.claims(small.CONFIG, small.reduced(**given))
    self.assertLen({claim.key for claim in found}, len(found))
    return {claim.key.removeprefix('images_'): claim.verdict for claim in found}

  def test_where_the_law_holds(self):
    found = self.verdicts()
    self.assertLen(found, 8)
    self.assertEqual(found['predicted'], 'holds')
    self.assertEqual(found['growth'], 'holds')
    # At a tolerance of 10 % the critical batch size is far below B_S.
    self.assertEqual(found['bound_1024'], 'fails')

  def test_a_prediction_that_is_wrong_fails(self):
    found = self.verdicts(true_noises=(400.0, 800.0, 1600.0))
    self.assertEqual(found['predicted'], 'fails')

  def test_a_fall_fails(self):
    self.assertEqual(self.verdicts(noises=(200.0, 100.0, 50.0))['growth'],
                     'fails')

  @parameterized.parameters((0.0, 0.5, 'holds'), (0.1, 0.5, 'holds'),
                            (0.1, 0.9, 'fails'))
  def test_ramps_are_compared_at_equal_loss(self, ramp, share, verdict):
    found = self.verdicts(ramp=ramp, ramp_share=share)
    self.assertEqual(
      {found[f'ramp_{arm}'] for arm in analysis.ARMS}, {verdict})

  def test_steps_saved_in_closed_form(self):
    """The ramp ends where batch 64 does, in 0.1 of the steps, not in 1/4."""
    fixed = small.log_losses(100.0)[..., -1]
    self.assertAlmostEqual(analysis.steps_saved(
      SETTING, fixed, fixed[:, 2], 0.1), 0.4)

  def test_beyond_the_largest_branch_is_no_agreement(self):
    found = claims.claims(small.CONFIG, small.reduced(
      true_noises=(1e5, 1e5, 1e5)))
    ratio = {claim.key: claim for claim in found}['images_bound_64']
    self.assertEqual(ratio.measured.value, 0)
    self.assertEqual(ratio.verdict, 'fails')
    self.assertIn('more than 512 is measured', ratio.note)


class TablesTest(absltest.TestCase):

  def test_they_say_what_was_found(self):
    found = small.reduced()['images']
    text = analysis.table(SETTING, found).text()
    self.assertIn('16,384', text)
    self.assertIn('batch 16 is far below B_S, ',
                  analysis.advice_table(SETTING, found).text())


if __name__ == '__main__':
  absltest.main()
