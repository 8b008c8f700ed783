"""The alarm in trainings with a worker that breaks."""

import numpy as np
import pytest
from absl.testing import absltest

from experiments.robustness import alarm_page, alarms, training


@pytest.mark.slow
class AlarmsTest(absltest.TestCase):

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.found = alarms.replay(
      training.train(0.1, num_seeds=3, steps=1536))

  def test_a_worker_that_is_always_the_last_is_named_at_once(self):
    for fault in ('zeros', 'all labels wrong'):
      steps = self.found.first_steps[fault][alarm_page.LIMIT]
      self.assertLess(np.max(steps), 20, fault)
    # At a batch of 16, gradients hardly have a direction in common.
    turned = self.found.first_steps['its gradient × −1'][alarm_page.LIMIT]
    self.assertGreater(np.min(turned), 60)

  def test_healthy_workers_are_not_named(self):
    self.assertEqual(self.found.false_alarms[alarm_page.LIMIT], 0)
    self.assertLessEqual(sum(self.found.wrong.values()), 1)

  def test_harmful_flips_are_seen(self):
    self.assertGreater(self.found.harmful[alarm_page.JUMP], 0.5)
    self.assertLess(self.found.false_jumps[alarm_page.JUMP], 5e-3)
    # Looser thresholds see more, and err more often.
    self.assertTrue((np.diff(self.found.false_jumps) <= 0).all())
    self.assertTrue((np.diff(self.found.harmful) <= 0).all())

  def test_the_page_has_a_row_a_fault(self):
    shown = alarm_page.tables({'noisy data': self.found})
    for fault in training.LASTING:
      self.assertIn(f'| {fault} |', shown)


if __name__ == '__main__':
  absltest.main()
