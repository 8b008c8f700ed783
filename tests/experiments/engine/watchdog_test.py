"""What is stuck is named, and nothing is ended."""

import contextlib
import io
import pathlib
import tempfile
import time

import pytest
from absl.testing import absltest

from experiments import engine
from experiments.engine import watchdog
from tests.experiments.engine import fit_test


class WatchdogTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.said = []

  def dog(self, stuck_after, steps=100):
    return watchdog.Watchdog('a run', steps, stuck_after, self.said.append)

  def test_a_phase_that_lasts_is_named_once_and_at_twice_the_time(self):
    dog = self.dog(0.2)
    dog.enter('saving', 40)
    dog.look()
    self.assertEmpty(self.said)
    time.sleep(0.25)
    dog.look()
    dog.look()
    self.assertLen(self.said, 1)
    self.assertRegex(
      self.said[0], r'stuck\? process 0 of 1 on \S+ has made no progress for '
      r'\d+ s, saving at step 40 of 100 \(a run\)')
    time.sleep(0.3)
    dog.look()
    self.assertLen(self.said, 2)
    dog.enter(watchdog.STEPPING, 44)
    self.assertRegex(self.said[2], r'process 0 .* goes on after \d+ s')

  def test_what_is_usual_is_learned_from_the_run(self):
    dog = self.dog(0.0)
    dog.enter(watchdog.STEPPING, 4)
    self.assertEqual(dog._allowed(), 600)  # nothing is usual yet
    dog._since -= 7
    dog.enter('waiting for data', 4)
    self.assertEqual(dog._allowed(), 600)
    dog.enter(watchdog.STEPPING, 8)
    self.assertBetween(dog._allowed(), 140, 150)
    dog._since -= 200
    dog.look()
    self.assertIn('the longest scan of steps has taken 7.0 s', self.said[0])

  @pytest.mark.slow
  def test_a_run_that_waits_for_data_says_so_and_ends_as_ever(self):
    def batches(step):
      time.sleep(2.0 if step == 8 else 0)
      return fit_test.batch_of(step)

    stderr = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, (
        contextlib.redirect_stderr(stderr)):
      state = fit_test.run(
        pathlib.Path(folder) / 'own', batches=batches, stuck_after=0.8,
        steps=engine.Schedule(12, 4, scan=2))
    self.assertIn('params', state)
    self.assertRegex(
      stderr.getvalue(),
      r'stuck\? process 0 of 1 .* waiting for data at step [68] of 12 \(own\)')

  def test_bad_limits_are_refused(self):
    for value in (-1.0, float('nan'), float('inf')):
      with self.assertRaisesRegex(ValueError, 'stuck_after'), (
          tempfile.TemporaryDirectory()) as folder:
        fit_test.run(folder, stuck_after=value)


if __name__ == '__main__':
  absltest.main()
