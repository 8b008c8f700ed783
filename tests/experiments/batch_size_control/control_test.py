"""Controllers of the batch size: flags, lengths, claims, a whole small run."""

import math

import numpy as np
import pytest
import xarray as xr
from absl.testing import absltest, parameterized

from experiments.batch_size_control import analysis, claims, task
from experiments.batch_size_control.config import Config
from experiments.batch_size_control.study import BatchSizeControl
from experiments.common import flags, parsing
from tests.experiments.study_run import StudyRun

SMALL = Config(
  workdir='unset', num_seeds=2, num_held_out=2, batch_sizes=(4, 16),
  num_workers=2, lengths=(60, 90), record_steps=10, most_mean_batch=12,
  model_options='{"hidden": [4]}')
ARMS = ['4', '16', *analysis.ARMS]


def fake(best='4', **changed):
  """Make a reduced result: by default the arms are alike, but for the ends."""
  rng = np.random.default_rng(0)
  values = {
    'loss': [1, 2, 0.99, 0.99, 0.99, 0.99], 'steps': [10, 4, 5, 5, 5, 5],
    'gradients': [10, 40, 15, 15, 15, 15]} | changed
  return xr.Dataset({
    name: (('arm', 'seed'), np.outer(x, np.ones(4)) * (
      1 + 0.01 * rng.uniform(size=(len(ARMS), 4))))
    for name, x in values.items()} | {'chosen': ('arm', [60] * len(ARMS))},
    {'arm': ARMS, 'seed': range(4)}, {'best': best})


class ClaimsTest(absltest.TestCase):

  def verdicts(self, **changed):
    found = claims.claims(SMALL, fake(**changed))
    self.assertLen({claim.key for claim in found}, 22)
    return {claim.key: claim.verdict for claim in found}

  def test_each_can_hold_and_each_can_fail(self):
    self.assertEqual(set(self.verdicts().values()), {'holds'})
    self.assertEqual(set(self.verdicts(
      loss=[1, 2, 3, 3, 3, 3], steps=[10, 4, 10, 10, 10, 10],
      gradients=[10, 40, 40, 40, 40, 40]).values()), {'fails'})

  def test_the_best_fixed_batch_is_the_one_to_reach(self):
    found = self.verdicts(best='16', loss=[2, 1, 2, 2, 2, 1])
    for name in ('loss', 'errors'):
      self.assertEqual(found[f'{name}_norm_test'], 'fails')
    self.assertEqual(found['loss_divebatch'], 'holds')

  def test_a_run_that_did_not_end_leaves_claims_unknown(self):
    found = self.verdicts(steps=[10, 4, np.nan, 5, 5, 5])
    for name in ('steps', 'front'):
      self.assertEqual(found[f'{name}_noise_scale'], 'unknown')
      self.assertEqual(found[f'{name}_norm_test'], 'holds')

  def test_a_fixed_batch_is_not_better_than_fixed_batches(self):
    """An arm that takes what batch 4 takes, in steps and in gradients."""
    found = self.verdicts(steps=[10, 4, 10, 5, 5, 5],
                          gradients=[10, 40, 10, 15, 15, 15])
    self.assertEqual(found['front_noise_scale'], 'fails')


class LengthsTest(parameterized.TestCase):
  """Where the loss is the inverse of the length, and batch 16 a tenth below."""

  def held(self, **changed):
    lengths = np.array(SMALL.lengths, float)
    loss = np.stack([1 / lengths] * len(ARMS))
    loss[1] *= 0.9
    data = {'loss': loss, 'steps': np.ones_like(loss)} | changed
    return xr.Dataset(
      {name: (('arm', 'length', 'held_out'), np.stack([x, x], -1))
       for name, x in data.items()},
      {'arm': ARMS, 'length': list(SMALL.lengths)})

  def test_each_arm_is_as_long_as_it_takes_to_the_best_loss(self):
    best, chosen = analysis.choose(SMALL, self.held())
    self.assertEqual(best, '16')
    # 60/0.9 = 66.7, up to the next record.
    self.assertEqual(chosen, {arm: 60 if arm == '16' else 70 for arm in ARMS})

  def test_a_loss_that_is_not_reached_takes_the_longest(self):
    loss = np.ones((len(ARMS), 2))
    loss[1] = 0.5
    _, chosen = analysis.choose(SMALL, self.held(loss=loss))
    self.assertEqual(set(chosen.values()), {60, 90})
    self.assertEqual(chosen['4'], 90)

  def test_runs_that_did_not_end_have_not_reached_it(self):
    steps = np.ones((len(ARMS), 2))
    steps[3] = math.nan
    _, chosen = analysis.choose(SMALL, self.held(steps=steps))
    self.assertEqual(chosen[ARMS[3]], 90)

  @parameterized.parameters((60., 60), (66., 70), (70., 70), (71., 80))
  def test_crossing(self, at, length):
    loss = -np.log(np.array(SMALL.lengths, float))
    self.assertEqual(analysis._crossing(SMALL, loss, -math.log(at)), length)

  def test_errors_apart(self):
    """Log ratios 1 and 3: a mean of 2, with an error of 1."""
    found = analysis.errors_apart(np.exp([1., 3.]), np.ones(2))
    self.assertAlmostEqual(found, 2)
    self.assertEqual(analysis.errors_apart(np.ones(2), np.ones(2)), 0)


class EndTest(absltest.TestCase):

  def test_counts_up_to_the_first_record_at_the_end(self):
    runs = xr.Dataset({
      name: (('seed', 'step'), x) for name, x in {
        'loss': [[3., 2., 1.], [3., 2., np.nan]],
        'accuracy': np.zeros((2, 3)), 'progress': [[0, 60, 60], [0, 30, 59]],
        'taken': [[0, 20, 20], [0, 9, 18]],
        'examples': [[0, 320, 640]] * 2}.items()}, {'length': 60})
    last = analysis._ends(runs)
    np.testing.assert_array_equal(last['gradients'], [320, np.nan])
    np.testing.assert_array_equal(last['steps'], [20, np.nan])
    np.testing.assert_array_equal(last['loss'], [1, 3])


class ConfigTest(parameterized.TestCase):

  @parameterized.parameters(
    ('--batch_sizes=16', 'rising by powers of two'),
    ('--batch_sizes=16,48', 'rising by powers of two'),
    ('--batch_sizes=4,8', 'multiples of --num_workers=8'),
    ('--num_workers=1', 'at least 2'),
    ('--num_seeds=101', 'at most 100'),
    ('--num_held_out=0', 'at least 1'),
    ('--most_mean_batch=0', 'at least 1'),
    ('--decay=1', 'between 0 and 1'),
    ('--lengths=625,500', 'rising multiples of --record_steps=25'),
    ('--lengths=510', 'rising multiples of --record_steps=25'))
  def test_values_out_of_range(self, flag, message):
    with self.assertRaisesRegex(flags.UsageError, message):
      parsing.parse(Config, ['control', '--workdir=x', flag])

  def test_controllers_begin_at_the_first_size(self):
    for arm in analysis.ARMS:
      control = task.controller(arm, SMALL)
      self.assertEqual((control.first, control.ladder.most), (4, 16))

  def test_no_seed_chooses_and_is_reported(self):
    config = Config(workdir='x', num_seeds=100, num_held_out=9)
    self.assertEmpty({*config.seeds} & {*config.held_out})

  def test_controlled_runs_end_with_a_largest_batch(self):
    self.assertEqual(SMALL.most_examples(60), 720)
    self.assertEqual(SMALL.most_examples(70), 848)  # 840, to 53 of 16


@pytest.mark.slow
class RunTest(StudyRun, absltest.TestCase):

  study = BatchSizeControl()
  small = SMALL

  def test_all_take_the_iterations_that_were_chosen(self):
    reduced = self.outcome.reduced
    steps, chosen = reduced['steps'], reduced['chosen']
    self.assertTrue(steps.notnull().all())
    self.assertTrue((steps <= chosen).all())
    self.assertTrue((steps.sel(arm='4') == chosen.sel(arm='4')).all())
    self.assertTrue((steps.sel(arm='16') < chosen.sel(arm='16')).all())
    np.testing.assert_array_equal(
      reduced['gradients'].sel(arm='4'), 4 * steps.sel(arm='4'))
    best, again = analysis.choose(SMALL, reduced[[
      'held_out_loss', 'held_out_steps']].rename(
        held_out_loss='loss', held_out_steps='steps'))
    self.assertEqual(best, reduced.attrs['best'])
    self.assertEqual([*again.values()], chosen.values.tolist())

  def test_claims_and_table_are_printed(self):
    self.assertLen(self.outcome.claims, 22)
    self.assertIn('after 60 scale-invariant iterations', self.printed)


if __name__ == '__main__':
  absltest.main()
