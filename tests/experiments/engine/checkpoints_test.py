"""Tests of checkpoints: which are kept, and what becomes of damaged ones."""

import contextlib
import io
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import time

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments.engine import checkpoints


def tiny(fill=1.0):
  return {'params': {'w': np.full(4, fill, np.float32)}, 'n': np.int32(3)}


class CheckpointsCase(parameterized.TestCase):

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

  def save(self, *steps, store=None):
    for step in steps:
      (store or self.store).save(step, tiny(step), {'step': step})

  def assert_restores(self, step, store=None):
    restored = (store or self.store).restore(tiny())
    self.assertEqual(restored.step, step)
    self.assertEqual(restored.meta, {'step': step})
    np.testing.assert_array_equal(restored.state['params']['w'], step)


class CheckpointsTest(CheckpointsCase):

  def test_nothing_to_restore(self):
    self.assertIsNone(self.store.restore(tiny()))
    self.assertEqual(self.store.steps(), [])
    self.assertFalse(self.folder.exists())

  def test_a_step_by_its_number(self):
    store = checkpoints.Checkpoints(self.folder, keep=3)
    self.save(1, 2, 3, store=store)
    restored = store.restore(tiny(), step=2)
    np.testing.assert_array_equal(restored.state['params']['w'], 2)
    with self.assertRaisesRegex(
        checkpoints.CheckpointError, r'no checkpoint of step 9.*\[1, 2, 3\]'):
      store.restore(tiny(), step=9)

  def test_bad_arguments(self):
    with self.assertRaisesRegex(ValueError, 'keep is 0'):
      checkpoints.Checkpoints(self.folder, keep=0)
    with self.assertRaisesRegex(ValueError, 'step is -1'):
      self.store.save(-1, tiny(), {})
    self.save(1)
    for state, meta in ((tiny(), {'f': print}), ({'x': print}, {})):
      with self.assertRaises(checkpoints.CheckpointError):
        self.store.save(2, state, meta)
    self.assertEqual(self.names(), ['step_00000001'])

  def test_no_thread_stays_and_a_save_is_quick(self):
    self.save(1)
    start = time.perf_counter()
    self.save(2)
    # Takes 0.05 s; this asks only that nothing waits for a time-out.
    self.assertLess(time.perf_counter() - start, 5)
    for thread in threading.enumerate():
      self.assertNotIn('orbax', f'{thread}')
      self.assertTrue(thread.daemon or thread is threading.main_thread())

  def test_orbax_is_not_imported_before_need(self):
    code = ('import sys, experiments.engine.checkpoints; '
            'assert "orbax.checkpoint" not in sys.modules')
    subprocess.run([sys.executable, '-c', code], check=True,
                   cwd=pathlib.Path(__file__).parents[3])


class RetentionTest(CheckpointsCase):

  def test_the_newest_are_kept(self):
    self.save(1, 3, 5, 6)
    self.assertEqual(self.store.steps(), [5, 6])
    self.assertEqual(self.names(), ['step_00000005', 'step_00000006'])
    self.assert_restores(6)

  def test_the_last_finite_one_outlives_all_that_are_not(self):
    self.save(1, 2)
    for step in (3, 4, 5):
      self.store.save(step, tiny(np.nan), {})
    self.assertEqual(self.store.steps(), [2, 4, 5])
    self.assertEqual(self.store.restore(tiny()).step, 5)
    self.assertIn('not finite', self.stderr.getvalue())
    self.save(6)
    self.assertEqual(self.store.steps(), [5, 6])

  def test_a_statistic_may_be_infinite(self):
    state = {**tiny(), 'opt_state': {'noise_scale': np.float32(np.inf)}}
    self.store.save(1, state, {})
    self.store.save(2, tiny(np.inf), {})
    self.store.save(3, {'params': {'b': jnp.full(2, jnp.nan, jnp.bfloat16)}},
                    {})
    self.assertEqual(self.store.steps(), [1, 2, 3])

  def test_the_caller_may_judge(self):
    self.save(1)
    for step in (2, 3, 4):
      self.store.save(step, tiny(), {}, finite=False)
    self.assertEqual(self.store.steps(), [1, 3, 4])

  def test_saving_a_step_again_replaces_it(self):
    self.save(1, 2)
    self.store.save(2, tiny(20), {'step': 20})
    self.assertEqual(self.names(), ['step_00000001', 'step_00000002'])
    self.assertEqual(self.store.restore(tiny()).meta, {'step': 20})

  def test_a_kill_between_the_two_renames_of_a_replacement(self):
    store = checkpoints.Checkpoints(self.folder, keep=1)
    self.save(2, store=store)
    (self.folder / 'step_00000002').rename(self.folder / 'step_00000002.old')
    self.assertEqual(store.steps(), [2])
    self.assert_restores(2, store)
    self.save(2, store=store)
    self.assertEqual(self.names(), ['step_00000002'])

  def test_a_history_that_was_left_is_set_aside_and_not_lost(self):
    self.save(10, 20)
    self.save(5)
    self.assertEqual(self.names(), [
        'step_00000005', 'step_00000010.abandoned', 'step_00000020.abandoned'])
    self.assert_restores(5)
    self.assertEqual(self.stderr.getvalue().count('set aside'), 2)


class DamageTest(CheckpointsCase):

  def files(self):
    path = self.folder / 'step_00000002'
    return [file for file in sorted(path.rglob('*')) if file.is_file()]

  def test_one_flipped_byte_in_any_file(self):
    rng = random.Random(0)
    self.save(1, 2)
    self.assertGreater(len(self.files()), 5)
    for file in self.files():
      data = bytearray(whole := file.read_bytes())
      data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
      file.write_bytes(data)
      self.stderr.truncate(0)
      if file.name == 'manifest.json':
        # White space there means nothing: what it says must be as it was.
        with contextlib.suppress(ValueError):
          if json.loads(data) == json.loads(whole):
            continue
      self.assert_restores(1)
      self.assertIn('step_00000002 is damaged', self.stderr.getvalue())
      if file.name != 'manifest.json':  # which may now name another file
        self.assertIn(file.name, self.stderr.getvalue())
      self.assertIn('going back to step 1', self.stderr.getvalue())
      file.write_bytes(whole)
    self.assert_restores(2)

  def test_any_flip_in_the_manifest_is_seen_or_harmless(self):
    self.save(1, 2)
    manifest = self.folder / 'step_00000002' / 'manifest.json'
    whole = manifest.read_bytes()
    rng = random.Random(0)
    for position in rng.sample(range(len(whole)), 100):
      data = bytearray(whole)
      data[position] ^= 1 << rng.randrange(8)
      manifest.write_bytes(data)
      restored = self.store.restore(tiny())
      np.testing.assert_array_equal(restored.state['params']['w'],
                                    restored.step)

  @parameterized.parameters('truncate', 'delete')
  def test_truncated_or_missing_files(self, how):
    self.save(1, 2)
    for file in self.files():
      whole = file.read_bytes()
      if how == 'delete':
        file.unlink()
      else:
        file.write_bytes(whole[:-1])
      if how == 'truncate' and file.name == 'manifest.json':
        file.write_bytes(whole[:len(whole) // 2])
      self.assert_restores(1)
      self.assertIn(file.name, self.stderr.getvalue())
      if how == 'truncate' and file.name != 'manifest.json':
        self.assertIn(f'{file.name}: {len(whole) - 1} bytes instead of '
                      f'{len(whole)}', self.stderr.getvalue())
      file.write_bytes(whole)
    self.assert_restores(2)

  def test_all_damaged_is_an_error_and_no_new_start(self):
    self.save(1, 2)
    for manifest in self.folder.glob('*/manifest.json'):
      manifest.unlink()
    with self.assertRaisesRegex(
        checkpoints.CheckpointError, r'damaged: steps \[2, 1\]'):
      self.store.restore(tiny())

  def test_the_step_that_was_asked_for_has_no_stand_in(self):
    self.save(1, 2)
    (self.folder / 'step_00000002' / 'tree.json').unlink()
    with self.assertRaisesRegex(checkpoints.CheckpointError, r'steps \[2\]'):
      self.store.restore(tiny(), step=2)

  def test_the_run_goes_on_over_a_damaged_one(self):
    self.save(1, 2)
    (self.folder / 'step_00000002' / 'meta.json').unlink()
    self.assert_restores(1)
    self.save(2, 3)
    self.assertEqual(self.store.steps(), [2, 3])
    self.assertIsNotNone(self.store.restore(tiny(), step=2))

  def test_a_folder_under_a_false_name(self):
    self.save(1, 2)
    (self.folder / 'step_00000002').rename(self.folder / 'step_00000009')
    self.assert_restores(1)
    self.assertIn('another checkpoint', self.stderr.getvalue())


if __name__ == '__main__':
  absltest.main()
