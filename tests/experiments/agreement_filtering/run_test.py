"""The fourth paper, small: controls, rates, claims and figures."""


import numpy as np
import pytest
from absl.testing import absltest

from experiments.agreement_filtering import arms as agreement_arms
from experiments.agreement_filtering.study import Filtering
from gradiv import weightings
from tests.experiments import study_run
from tests.experiments.agreement_filtering.small import SMALL


@pytest.mark.slow
class RunTest(study_run.StudyRun, absltest.TestCase):

  study = Filtering()
  small = SMALL

  def test_every_arm_has_its_cells(self):
    names = [arm.name for arm in agreement_arms.list_arms(self.config)]
    self.assertEqual(set(names), {
      *weightings.COMBINE, 'mean', 'geometric_median', 'random',
      'equal_updates', 'mean_clean', 'running_mean_clean'})
    self.assertLen(self.summary['cells'], 2 * (4 * 2 + 6))
    for cell in self.summary['cells']:
      self.assertIn(cell['learning_rate'], self.config.learning_rates)
      self.assertBetween(cell['test'][0], 0, 1)
      self.assertBetween(cell['skipped'][0], 0, 1)
      self.assertEqual(cell['memorized'][0] is None, cell['noise'] == 0)
    for word in ('Test accuracy', 'beyond the mean', 'Steps skipped'):
      self.assertIn(word, self.printed)

  def test_the_mean_skips_nothing_and_the_strict_filter_much(self):
    skipped = {
      (c['arm'], c['threshold'], c['noise']): c['skipped'][0]
      for c in self.summary['cells']}
    self.assertEqual(skipped['mean', 2., 0.5], 0)
    self.assertEqual(skipped['geometric_median', 2., 0.5], 0)
    self.assertGreater(skipped['running_mean', 0.5, 0.5],
                       skipped['running_mean', 1., 0.5])

  def test_controls_match_the_filter(self):
    """As many updates exactly; in the mean, as many let through."""
    runs = self.outcome.reduced.runs
    load = lambda name, **at: runs[name]['sizes'].isel(
      step=-1).sel(at).squeeze('threshold', drop=True).values
    sizes = runs['running_mean']['sizes'].isel(step=-1).sel(
      threshold=self.config.control_threshold).values
    equal = load('equal_updates')
    np.testing.assert_array_equal(equal[..., 0], sizes[..., 0])
    np.testing.assert_array_equal(equal[..., 3], sizes[..., 1:].sum(-1))
    blind = load('random')
    # 16 lanes of 12 steps, each drawn: five standard errors.
    gap = (blind - sizes).sum((0, 1, 2))
    self.assertLess(np.abs(gap).max(), 5 * np.sqrt(12 * 16 / 4))
    self.assertEqual(blind[..., 1].sum(), 0)

  def test_rates_are_chosen_on_validation_data(self):
    for name, run in self.outcome.reduced.runs.items():
      final = run['validation'].isel(step=-1).mean('seed')
      best = run.rate.values[final.argmax('rate').values]
      np.testing.assert_array_equal(self.outcome.reduced.tuned[name].rate, best)
      for noise in run.noise.values:
        cell = next(c for c in self.summary['cells'] if (
          c['arm'], c['noise'], c['threshold']) == (
            name, noise, run.threshold.values[0]))
        chosen = run['test'].sel(noise=noise, rate=cell['learning_rate'])
        self.assertAlmostEqual(
          cell['test'][0], float(chosen.isel(threshold=0).mean()))

  def test_claims(self):
    claims = {claim.key: claim for claim in self.outcome.claims}
    self.assertLen(claims, 6)
    runs = self.outcome.reduced.runs
    run = lambda name: runs[name].isel(rate=-1, step=-1).sel(
      noise=0.5)['validation']
    gain = run('running_mean').sel(threshold=0.5) - run('mean').isel(
      threshold=0)
    self.assertAlmostEqual(claims['mean_50'].measured.value,
                           float(gain.mean()))
    self.assertEqual(claims['orthogonal'].allowed, (0.9, 1.1))


if __name__ == '__main__':
  absltest.main()
