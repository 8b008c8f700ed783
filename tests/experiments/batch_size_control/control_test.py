"""Controllers of the batch size: the flags, the claims, a whole small run."""

import numpy as np
import pytest
import xarray as xr
from absl.testing import absltest, parameterized

from experiments.batch_size_control import analysis, task
from experiments.batch_size_control.config import Config
from experiments.batch_size_control.study import BatchSizeControl
from experiments.common import flags, parsing
from tests.experiments.study_run import StudyRun

SMALL = Config(
  workdir='unset', num_seeds=2, batch_sizes=(4, 16), num_workers=2, steps=60,
  num_records=6, most_examples=640, model_options='{"hidden": [4]}')


def fake(**changed):
  """Make a reduced result: by default the arms are alike, but for the ends."""
  arms, jitter = ['4', '16', *analysis.ARMS], 1 + 0.01 * np.arange(4)
  values = {
    'loss': [1, 2, 1, 1, 1, 1], 'steps': [10, 4, 5, 5, 5, 5],
    'gradients': [10, 40, 15, 15, 15, 15]} | changed
  return xr.Dataset({
    name: (('arm', 'seed'), np.outer(x, jitter)) for name, x in values.items()},
    {'arm': arms, 'seed': range(4)})


class ClaimsTest(absltest.TestCase):

  def verdicts(self, **changed):
    found = analysis.claims(SMALL, fake(**changed))
    self.assertLen(found, 18)
    return {claim.key: claim.verdict for claim in found}

  def test_each_can_hold_and_each_can_fail(self):
    self.assertEqual(set(self.verdicts().values()), {'holds'})
    self.assertEqual(set(self.verdicts(
      loss=[1, 2, 3, 3, 3, 3], steps=[10, 4, 10, 10, 10, 10],
      gradients=[10, 40, 40, 40, 40, 40]).values()), {'fails'})

  def test_the_best_fixed_batch_is_the_one_to_reach(self):
    found = self.verdicts(loss=[2, 1, 2, 2, 2, 1])
    self.assertEqual(
      (found['loss_norm_test'], found['kept_norm_test']), ('fails', 'holds'))
    self.assertEqual(found['loss_divebatch'], 'holds')

  def test_a_run_that_did_not_end_leaves_claims_unknown(self):
    found = self.verdicts(steps=[10, 4, np.nan, 5, 5, 5])
    self.assertEqual(found['steps_noise_scale'], 'unknown')
    self.assertEqual(found['steps_norm_test'], 'holds')


class EndTest(absltest.TestCase):

  def test_counts_up_to_the_first_record_at_the_end(self):
    runs = xr.Dataset({
      name: (('seed', 'step'), x) for name, x in {
        'loss': [[3., 2., 1.], [3., 2., np.nan]],
        'accuracy': np.zeros((2, 3)), 'progress': [[0, 60, 60], [0, 30, 59]],
        'taken': [[0, 20, 20], [0, 9, 18]],
        'examples': [[0, 320, 640]] * 2}.items()})
    last = analysis._last(SMALL, runs)
    np.testing.assert_array_equal(last['gradients'], [320, np.nan])
    np.testing.assert_array_equal(last['steps'], [20, np.nan])
    np.testing.assert_array_equal(last['loss'], [1, 3])


class ConfigTest(parameterized.TestCase):

  @parameterized.parameters(
    ('--batch_sizes=16', 'rising by powers of two'),
    ('--batch_sizes=16,48', 'rising by powers of two'),
    ('--batch_sizes=4,8', 'multiples of --num_workers=8'),
    ('--num_workers=1', 'at least 2'),
    ('--most_examples=100', 'a positive multiple of the largest'),
    ('--decay=1', 'between 0 and 1'),
    ('--num_records=7', 'a divisor of --steps=500'))
  def test_values_out_of_range(self, flag, message):
    with self.assertRaisesRegex(flags.UsageError, message):
      parsing.parse(Config, ['control', '--workdir=x', flag])

  def test_controllers_begin_at_the_first_size(self):
    for arm in analysis.ARMS:
      control = task.controller(arm, SMALL)
      self.assertEqual((control.first, control.ladder.most), (4, 16))


@pytest.mark.slow
class RunTest(StudyRun, absltest.TestCase):

  study = BatchSizeControl()
  small = SMALL

  def test_all_take_as_many_scale_invariant_iterations(self):
    reduced = self.outcome.reduced
    steps = reduced['steps']
    self.assertTrue(steps.notnull().all())
    self.assertTrue((steps.sel(arm='4') == 60).all())
    self.assertTrue((steps.sel(arm='16') < 60).all())
    self.assertTrue((steps.sel(arm=list(analysis.ARMS)) <= 60).all())
    ends = reduced.sel(arm='4')
    np.testing.assert_array_equal(ends['gradients'], 240)

  def test_claims_and_table_are_printed(self):
    self.assertLen(self.outcome.claims, 18)
    self.assertIn('After 60 scale-invariant iterations', self.printed)


if __name__ == '__main__':
  absltest.main()
