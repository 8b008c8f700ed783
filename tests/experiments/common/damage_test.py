"""A finished run that was hurt: refused by name, or the same result again."""

import dataclasses
import errno
import itertools
import json
import os
import pathlib
import shutil
import tempfile
from unittest import mock

import pytest
from absl.testing import absltest, parameterized

from experiments.engine import checkpoints, sealing
from experiments.gradient_diversity.batches.study import Batches
from tests.experiments import study_run
from tests.experiments.common import tiny_study
from tests.experiments.gradient_diversity.small import SMALL
from tests.soak import ends

# What a disk, a copy or an editor does to a file of some lines.
HURT = {
  'cut': lambda data: data[:len(data) // 2],
  'emptied': lambda data: b'',
  'doubled': lambda data: data + data,
  'last line gone': lambda data: b''.join(data.splitlines(True)[:-1]),
  'first line gone': lambda data: b''.join(data.splitlines(True)[1:]),
  'a hole': lambda data: data[:9] + bytes(len(data) - 18) + data[-9:],
}


class HurtRun:
  """Runs a study, hurts a copy of it, and runs or reads it again."""

  study = None
  small = None

  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.folder = pathlib.Path(
      cls.enterClassContext(tempfile.TemporaryDirectory()))
    cls.summary = cls.again('run', is_report=False)

  @classmethod
  def again(cls, name, **options):
    """Run in a folder; return the summary."""
    folder = cls.folder / name
    config = dataclasses.replace(
      cls.small, workdir=str(folder), data_dir=str(cls.folder / 'data'))
    study_run.run(cls.study, config, **options)
    return json.loads((folder / 'summary.json').read_text())

  def hurt(self, how, path):
    """Copy the run and hurt a file of it; return both."""
    copy = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
    shutil.copytree(self.folder / 'run', copy, dirs_exist_ok=True)
    self.addCleanup(shutil.rmtree, copy)
    path = copy / path
    path.write_bytes(HURT[how](path.read_bytes()))
    return copy, path

  def records(self):
    """List the files that results are read from."""
    return sorted(
      path.relative_to(self.folder / 'run')
      for path in (self.folder / 'run').rglob('*.json*')
      if 'checkpoints' not in path.parts and path.name not in (
        'summary.json', 'claims.json', 'timing.jsonl', 'metrics.jsonl.sha256'))

  def check(self, how, name, reports=(True, False)):
    """Hurt a file: either it is named, or the result is what it was."""
    for is_report in reports:
      with self.subTest(f'{name} {how}, report {is_report}'):
        copy, path = self.hurt(how, name)
        try:
          summary = self.again(copy.name, is_report=is_report)
        except sealing.LogDamagedError as error:
          self.assertIn(str(path), str(error))
        else:
          self.assertEqual(summary, self.summary)


class TinyTest(HurtRun, absltest.TestCase):

  study = tiny_study.Tiny()
  small = tiny_study.Config()

  def check_all(self, reports):
    """Hurt each file of a part that is trained, and of one that is computed."""
    files = [path for path in self.records()
             if path.parts[0] in ('best', 'count.json')]
    self.assertLen(files, 4)
    for how, path in itertools.product(HURT, files):
      self.check(how, path, reports)

  @pytest.mark.slow
  def test_a_disk_that_is_full_for_a_while(self):
    """The run stops, and the same command makes all of it good."""
    write, left = os.write, [5]

    def full(*args):
      left[0] -= 1
      if left[0] < 0:
        raise OSError(errno.ENOSPC, 'No space left on device')
      return write(*args)

    with mock.patch.object(os, 'write', full):
      with self.assertRaisesRegex(
          checkpoints.CheckpointError, 'is not saved, as records'):
        self.again('full')
    self.assertEqual(self.again('full'), self.summary)
    self.assertEmpty(ends.differences(
      self.folder / 'full', self.folder / 'run'))

  def test_a_report_of_what_was_hurt(self):
    self.check_all((True,))

  @pytest.mark.slow
  def test_a_run_that_goes_on_from_what_was_hurt(self):
    self.check_all((False,))


@pytest.mark.slow
class PaperTest(HurtRun, parameterized.TestCase):
  """The records that B_S is read from."""

  study = Batches()
  small = SMALL

  @parameterized.parameters(*HURT)
  @pytest.mark.slow
  def test_never_another_batch_size_bound(self, how):
    for path in self.records():
      if path.name == 'metrics.jsonl':
        self.check(how, path)


if __name__ == '__main__':
  absltest.main()
