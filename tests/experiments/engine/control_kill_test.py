"""A controlled run that is killed goes on, bit for bit."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from absl.testing import absltest

from experiments.engine import checkpoints, records
from tests import helpers
from tests.experiments.engine import control_test as controlled


@pytest.mark.slow
class KillTest(controlled.ControlCase):

  def killed(self, beyond, wait):
    """Train in a process, and kill it some seconds after a checkpoint.

    Returns the step that was reached.
    """
    process = subprocess.Popen(
      [sys.executable, '-m', 'tests.experiments.engine.control_kill_test',
       str(self.folder / 'cut'), '0.2'], cwd=controlled.ROOT,
      env=os.environ | {'PYTHONPATH': str(controlled.ROOT)},
      stderr=subprocess.DEVNULL)
    self.addCleanup(process.kill)
    store = checkpoints.Checkpoints(self.folder / 'cut/checkpoints')
    deadline = time.monotonic() + 240
    while max(store.steps(), default=0) <= beyond:
      self.assertLess(time.monotonic(), deadline)
      time.sleep(0.02)
    time.sleep(wait)
    process.send_signal(signal.SIGKILL)
    self.assertEqual(process.wait(timeout=60), -signal.SIGKILL)
    return store.steps()[-1]

  def test_killed_at_random_moments_it_is_the_same_to_the_bit(self):
    """Before the batch has grown, and after."""
    whole = controlled.run(self.folder / 'whole', controlled.STEERED)
    grown = controlled.growth(
      records.read(self.folder / 'whole/metrics.jsonl'))
    rng = random.Random(0)
    first = self.killed(0, rng.uniform(0, 0.2))
    last = self.killed(max(first, grown), rng.uniform(0, 0.2))
    self.assertBetween(last, grown + 1, controlled.STEPS - 1)
    helpers.assert_same(
      controlled.run(self.folder / 'cut', controlled.STEERED), whole)
    self.assertEqual(self.log('cut'), self.log('whole'))


if __name__ == '__main__':
  if len(sys.argv) == 3 and not sys.argv[1].startswith('-'):
    controlled.run(
      sys.argv[1], controlled.STEERED, save_seconds=0.,
      batches=controlled.batches(pause=float(sys.argv[2])))
  else:
    absltest.main()
