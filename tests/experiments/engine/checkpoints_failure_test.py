"""Tests of saves that fail: full disks, interrupts."""

import contextlib
import errno
import io
import os
import pathlib
import resource
import shutil
import tempfile
import types
from unittest import mock

import numpy as np
import pytest
from absl.testing import absltest, parameterized

from experiments.engine import checkpoints


def tiny(fill=1.0):
  return {'params': {'w': np.full(4, fill, np.float32)}, 'n': np.int32(3)}


class CheckpointsFailureTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = pathlib.Path(folder.name) / 'checkpoints'
    self.store = checkpoints.Checkpoints(self.folder)
    self.stderr = io.StringIO()
    self.enterContext(contextlib.redirect_stderr(self.stderr))

  def names(self):
    return sorted(os.listdir(self.folder))

  def save(self, *steps):
    for step in steps:
      self.store.save(step, tiny(step), {'step': step})

  def assert_restores(self, step):
    restored = self.store.restore(tiny())
    self.assertEqual(restored.step, step)
    self.assertEqual(restored.meta, {'step': step})
    np.testing.assert_array_equal(restored.state['params']['w'], step)

  def test_a_disk_that_is_too_small_is_seen_before(self):
    self.save(1)
    usage = types.SimpleNamespace(free=50_000)
    with mock.patch.object(shutil, 'disk_usage', return_value=usage):
      with self.assertRaisesRegex(
          checkpoints.CheckpointError,
          r'step_00000002: not saved.* \d+ bytes are needed, 50000 are free'):
        self.save(2)
    self.assertEqual(self.names(), ['step_00000001'])

  def test_the_estimate_is_enough(self):
    state = {f'{i}': np.random.default_rng(i).bytes(5000) for i in range(20)}
    state = {k: np.frombuffer(v, np.uint8) for k, v in state.items()}
    self.store.save(1, state, {})
    taken = sum(f.stat().st_blocks * 512 for f in self.folder.rglob('*'))
    usage = types.SimpleNamespace(free=taken)
    with mock.patch.object(shutil, 'disk_usage', return_value=usage):
      with self.assertRaisesRegex(checkpoints.CheckpointError, 'needed'):
        self.store.save(2, state, {})

  def test_a_disk_that_fills_up_half_way(self):
    self.save(1, 2)
    noise = np.random.default_rng(0).normal(size=200_000)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, limit[1]))
    try:
      with self.assertRaisesRegex(
          checkpoints.CheckpointError, 'not saved.*File too large'):
        self.store.save(3, {'params': noise}, {})
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    self.assertEqual(self.names(), ['step_00000001', 'step_00000002'])
    self.assertEqual(self.stderr.getvalue(), '')
    self.assert_restores(2)
    self.save(3)
    self.assert_restores(3)

  @parameterized.product(
      call=('fsync', 'rename', 'mkdir'), nth=(0, 2, 9))
  def test_any_call_may_fail(self, call, nth):
    self.check_failure(call, nth)

  @parameterized.product(call=('fsync', 'rename', 'mkdir'), nth=(1, 5))
  @pytest.mark.slow
  def test_so_may_those_in_between(self, call, nth):
    self.check_failure(call, nth)

  def check_failure(self, call, nth):
    self.save(1, 2)
    real = getattr(os, call)
    calls = []

    def fail(*args, **kwargs):
      calls.append(args)
      if len(calls) == nth + 1:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
      return real(*args, **kwargs)

    with mock.patch.object(os, call, fail):
      try:
        self.save(2)
      except checkpoints.CheckpointError as error:
        self.assertIn('step_00000002: not saved', f'{error}')
        self.assertIn('No space left', f'{error}')
    self.assertNotIn('partial', f'{self.names()}')
    self.assert_restores(2)
    self.save(3)
    self.assertEqual(self.store.steps(), [2, 3])

  def test_an_interrupt_is_not_swallowed(self):
    self.save(1)
    with mock.patch.object(os, 'fsync', side_effect=KeyboardInterrupt):
      with self.assertRaises(KeyboardInterrupt):
        self.save(2)
    self.assertEqual(self.names(), ['step_00000001'])

  def test_an_unfinished_one_is_reported_once_and_swept(self):
    self.save(1)
    (self.folder / 'step_00000002.partial').mkdir()
    self.assert_restores(1)
    self.assert_restores(1)
    self.assertEqual(self.stderr.getvalue().count('never finished'), 1)
    self.assertIn('step_00000002.partial', self.stderr.getvalue())
    self.save(3)
    self.assertEqual(self.names(), ['step_00000001', 'step_00000003'])


if __name__ == '__main__':
  absltest.main()
