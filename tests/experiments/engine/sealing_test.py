"""Records that are gone are missed: on resume, at the end, in a report."""

import hashlib
import os
import pathlib
import shutil
import tempfile
from unittest import mock

import pytest
from absl.testing import absltest, parameterized

from experiments.engine import checkpoints, records, sealing
from tests import helpers
from tests.experiments.engine import tiny_run
from tests.experiments.engine.trainer_resume_test import ResumeCase

HURT = {
  'last_gone': lambda lines: lines[:-1],
  'first_gone': lambda lines: lines[1:],
  'some_gone': lambda lines: [*lines[:1], *lines[3:]],
  'emptied': lambda lines: [],
  'doubled': lambda lines: [*lines[:2], *lines[1:]],
  'out_of_order': lambda lines: [lines[1], lines[0], *lines[2:]],
  'a_digit': lambda lines: [lines[0].replace(b'1', b'2', 1), *lines[1:]],
}
SAYS = {'last_gone': 'no record of step 20;', 'first_gone': 'of step 0;',
        'some_gone': 'of step 4, 8;', 'emptied': '0, 4, 8, 12, 16 and 1 more'}


class LogTest(ResumeCase):
  """A run of 20 steps, which is made once and copied."""

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.finished = cls.enterClassContext(tempfile.TemporaryDirectory())
    tiny_run.run(pathlib.Path(cls.finished) / 'a', steps=20)

  def copy(self):
    shutil.copytree(self.finished, self.folder, dirs_exist_ok=True)

  def run_to(self, steps):
    return tiny_run.run(self.folder / 'a', steps=steps)

  def hurt(self, change):
    path = self.folder / 'a' / 'metrics.jsonl'
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b''.join(change(lines)))
    return path

  @parameterized.parameters(*HURT)
  def test_a_log_that_was_hurt_is_refused_by_name(self, how):
    self.copy()
    path = self.hurt(HURT[how])
    data = path.read_bytes()
    for steps in (20, 60):  # is finished; goes on
      with self.assertRaisesRegex(
          sealing.LogDamagedError, f'{path} is not what it was when step 20 '
          f'was saved: .*{SAYS.get(how, "its records were changed")}'):
        self.run_to(steps)
      self.assertEqual(path.read_bytes(), data)
    # A report reads the log alone.
    with self.assertRaisesRegex(
        sealing.LogDamagedError, f'{path} was changed after the run had ended'):
      records.read(path)

  def test_a_log_that_is_gone(self):
    self.copy()
    (self.folder / 'a' / 'metrics.jsonl').unlink()
    with self.assertRaisesRegex(sealing.LogDamagedError, 'and 1 more'):
      self.run_to(60)

  def test_checkpoints_that_are_gone(self):
    self.copy()
    (self.folder / 'a' / 'checkpoints').rename(self.folder / 'elsewhere')
    with self.assertRaisesRegex(
        sealing.LogDamagedError, 'has records, and .*checkpoints is missing'):
      self.run_to(60)

  @parameterized.parameters(b'{"step": 24, "no', b'\0\0\0\n{"step": 28}\n',
                            b'no record\n')
  @pytest.mark.slow
  def test_what_is_behind_the_checkpoint_is_cut_whatever_it_is(self, tail):
    self.copy()
    path = self.hurt(lambda lines: [*lines, tail])
    os.unlink(sealing.seal_of(path))  # as a run that is cut off has none
    resumed = self.run_to(60)
    helpers.assert_same(resumed, tiny_run.run(self.folder / 'b'))
    self.assertEqual(path.read_bytes(), self.log('b'))

  def test_the_seal_is_what_sha256sum_reads(self):
    self.copy()
    seal = (self.folder / 'a' / 'metrics.jsonl.sha256').read_text()
    self.assertEqual(seal, hashlib.sha256(self.log('a')).hexdigest() +
                     '  metrics.jsonl\n')

  def test_a_kill_between_the_last_save_and_the_seal(self):
    self.copy()
    seal = sealing.seal_of(self.folder / 'a' / 'metrics.jsonl')
    sealed = seal.read_text()
    seal.unlink()
    self.run_to(20)
    self.assertEqual(seal.read_text(), sealed)

  def test_no_checkpoint_while_records_wait(self):
    with mock.patch.object(records.Records, 'mark', return_value=None):
      with self.assertRaisesRegex(
          checkpoints.CheckpointError, r'step \d+ is not saved, as records'):
        self.run_to(20)
    store = checkpoints.Checkpoints(self.folder / 'a' / 'checkpoints')
    self.assertEmpty(store.steps())
    self.run_to(20)  # begins anew, as a run that is killed so early does
    self.assertEqual(store.steps()[-1], 20)


class MarkTest(ResumeCase):

  def test_none_where_a_record_is_not_in_the_file(self):
    path = self.folder / 'metrics.jsonl'
    with records.Records(path) as log:
      log.write(0)
      self.assertEqual(log.mark(), (
        12, hashlib.sha256(path.read_bytes()).hexdigest()))
      with mock.patch.object(os, 'write', side_effect=OSError(28, 'full')):
        log.write(1)
        self.assertIsNone(log.mark())
      log.write(2)
      self.assertEqual(log.mark().size, 36)


if __name__ == '__main__':
  absltest.main()
