"""A paper whose command runs in two processes."""

import os
import pathlib
import sys
import tempfile
import time
from unittest import mock

import pytest
from absl.testing import absltest, parameterized

from experiments.adascale import config as adascale
from experiments.common import cluster, flags
from experiments.engine import records
from tests import processes as started

TINY = ('--scales=2', '--learning_rates=0.2', '--steps=8', '--num_records=4',
        '--num_seeds=2', '--window=4', '--backend=shard_map',
        '--save_seconds=0', '--nocompilation_cache')
SLURM = {'SLURM_JOB_ID': '1', 'SLURM_STEP_NODELIST': 'host',
         'SLURM_NTASKS': '2', 'SLURM_STEP_NUM_TASKS': '2',
         'SLURM_PROCID': '1', 'SLURM_LOCALID': '1'}


class FlagsTest(parameterized.TestCase):

  @parameterized.parameters(
    (dict(num_processes=2), '--coordinator_address=.*host:port'),
    (dict(num_processes=2, coordinator_address='host'),
     "--coordinator_address='host'"),
    (dict(num_processes=2, coordinator_address='host:1'), '--process_id=-1'),
    (dict(num_processes=2, coordinator_address='host:1', process_id=2),
     '--process_id=2: must be from 0 to 1'),
    (dict(process_id=0), '--process_id=0: must be left out'),
    (dict(coordinator_address='host:1'), '--coordinator_address=.*left out'),
    (dict(num_processes=-2), '--num_processes=-2: must be at least -1'),
    (dict(num_processes=2, coordinator_address='host:1', process_id=1,
          backend='vmap'), "--backend='vmap': must be shard_map"))
  def test_flags_that_do_not_fit(self, given, message):
    with self.assertRaisesRegex(flags.UsageError, message):
      adascale.Config(**{'backend': 'shard_map'} | given)

  def test_flags_or_the_cluster_say_how_many(self):
    alone = adascale.Config()
    self.assertFalse(cluster.is_several(alone))
    self.assertEqual(cluster.arguments(alone), {})
    given = dict(coordinator_address='[::1]:1', num_processes=2, process_id=0)
    two = adascale.Config(backend='shard_map', **given)
    self.assertTrue(cluster.is_several(two))
    self.assertEqual(cluster.arguments(two), given)
    with mock.patch.dict(os.environ, SLURM):
      found = adascale.Config(backend='shard_map')
      self.assertTrue(cluster.is_several(found))
      self.assertEqual(cluster.arguments(found), {})
      self.assertFalse(cluster.is_several(adascale.Config(num_processes=1)))
      adascale.Config(report=True)  # reads, whatever the cluster is
    with mock.patch.dict(os.environ, SLURM | {'SLURM_STEP_NUM_TASKS': '1'}):
      self.assertFalse(cluster.is_several(alone))


@pytest.mark.slow
class PaperTest(absltest.TestCase):

  def test_a_paper_is_cut_off_and_goes_on(self):
    """Its base has one worker, which both processes train alike."""
    folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    run = folder / 'run'

    def start():
      address = started.coordinator_address()
      return self.enterContext(started.Group([
        [sys.executable, '-m', 'experiments.adascale', *TINY,
         f'--workdir={run}', f'--data_dir={folder / "data"}',
         f'--coordinator_address={address}', '--num_processes=2',
         f'--process_id={i}'] for i in range(2)]))

    group = start()
    deadline = time.monotonic() + 200
    while not list(run.glob('scale_2/*/checkpoints/step_*')):
      self.assertLess(time.monotonic(), deadline)
      self.assertIsNone(group.processes[0].poll(), group.output(0))
      time.sleep(0.05)
    group.kill(1)
    self.assertEqual(group.processes[0].wait(60), 1)
    self.assertIn('another one is gone', group.output(0))
    self.assertFalse((run / 'claims.json').exists())

    first, other = start().wait(300)
    self.assertIn('Johnson et al. 2020', first)
    self.assertIn('2 of 4 parts were finished before', first)
    self.assertNotIn('parts', other)
    self.assertNotIn('Johnson', other)
    self.assertTrue((run / 'claims.json').exists())
    logs = sorted(run.glob('*/*/metrics.jsonl'))
    self.assertLen(logs, 3)
    for path in logs:
      self.assertEqual([row['step'] for row in records.read(path)],
                       [0, 2, 4, 6, 8])


if __name__ == '__main__':
  absltest.main()
