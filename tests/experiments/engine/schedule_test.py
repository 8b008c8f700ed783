"""Each thing that a run does has a period of its own."""

import pathlib
import signal
import tempfile

import numpy as np
from absl.testing import absltest, parameterized

from experiments.engine import checkpoints, records, signals, trainer
from tests import helpers
from tests.experiments.engine import small


class ScheduleTest(parameterized.TestCase):

  def folder(self):
    return pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

  def test_all_periods_are_every_where_nothing_else_is_said(self):
    one = trainer.Schedule(40, 8)
    self.assertEqual((one.scan, one.record_every, one.evaluate_every), (8,) * 3)
    fine = trainer.Schedule(40, 8, record_every=4)
    self.assertEqual((fine.scan, fine.record_every, fine.evaluate_every),
                     (4, 4, 8))

  @parameterized.parameters(
    (dict(scan=3), 'scan=3, record_every=8'),
    (dict(scan=0), 'scan=0, record_every=8'),
    (dict(record_every=16), 'record_every=16, evaluate_every=8'),
    (dict(evaluate_every=16), 'evaluate_every=16, steps=40'))
  def test_periods_that_do_not_divide_are_refused(self, periods, message):
    with self.assertRaisesRegex(ValueError, message):
      trainer.Schedule(40, 8, **periods)

  def test_periods_change_what_is_recorded_and_not_what_is_trained(self):
    coarse, fine = self.folder(), self.folder()
    whole = small.train(coarse, trainer.Schedule(24, 12))
    helpers.assert_close(small.train(fine, trainer.Schedule(
      24, 12, scan=2, record_every=4)), whole, 1e-6, 1e-6)
    few, many = (records.read(f / 'metrics.jsonl') for f in (coarse, fine))
    self.assertEqual([r['step'] for r in many], [0, 4, 8, 12, 16, 20, 24])
    self.assertEqual([r['step'] for r in many if 'norm' in r], [0, 12, 24])
    self.assertTrue(all('batch_loss' in r for r in many[1:]))
    for at, record in enumerate(few[1:]):
      np.testing.assert_allclose(
        record['batch_loss'],
        np.mean([r['batch_loss'] for r in many[1 + 3 * at:4 + 3 * at]], 0),
        1e-5)

  def test_a_signal_is_heard_after_a_scan_and_the_record_is_whole(self):
    """Stopped after 2 of the 4 steps that a record averages over."""
    schedule = trainer.Schedule(24, 12, 1e9, scan=2, record_every=4)
    cut, whole = self.folder(), self.folder()
    stop = signals.Stop()
    stop._signum = signal.SIGTERM
    with self.assertRaises(signals.Interrupted):
      small.train(cut, schedule, stop=stop)
    self.assertEqual(checkpoints.Checkpoints(cut / 'checkpoints').steps(), [2])
    helpers.assert_same(small.train(cut, schedule),
                        small.train(whole, schedule))
    self.assertEqual(*((f / 'metrics.jsonl').read_bytes()
                       for f in (cut, whole)))


if __name__ == '__main__':
  absltest.main()
