"""Tests of what prepares data sets: killed, raced, announced, refused."""

import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from unittest import mock

import pytest
import tensorflow_datasets as tfds
from absl.testing import absltest

from experiments import data
from experiments.data import folders, preparing
from tests.experiments.data import fakes


def _environment() -> dict[str, str]:
  paths = os.pathsep.join(path for path in sys.path if path)
  return {**os.environ, 'PYTHONPATH': paths}


class PreparingTest(fakes.Folder):

  @pytest.mark.slow
  def test_a_killed_preparation_leaves_no_data_set(self):
    code = textwrap.dedent('''
        import sys, time
        from experiments import data
        from experiments.data import embedded
        whole = embedded.PydocTopics._generate_examples
        def half(self, is_test):
          for key, example in whole(self, is_test):
            if is_test and key == 50:
              sys.__stdout__.write('half\\n')
              sys.__stdout__.flush()
              time.sleep(60)
            yield key, example
        embedded.PydocTopics._generate_examples = half
        data.load('pydoc_topics', 'train', data_dir=sys.argv[1])
    ''')
    with subprocess.Popen(
        [sys.executable, '-c', code, str(self.root)], env=_environment(),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
      self.assertEqual(process.stdout.readline(), b'half\n')
      process.send_signal(signal.SIGKILL)
    left = list(self.root.iterdir())
    self.assertLen(left, 1)
    self.assertStartsWith(left[0].name, '.preparing-')
    self.assertNotEmpty(list(left[0].rglob('*train*')))
    name = preparing.pin_embedded(folders.parse_name('pydoc_topics'))
    self.assertIsNone(folders.find_prepared(name, self.root))
    # An hour later its remains are swept away by the next preparation.
    os.utime(left[0], (time.time() - 4_000,) * 2)
    self.assertGreater(
        len(data.load('pydoc_topics', 'train', data_dir=self.root)), 5_000)
    self.assertEqual([path.name for path in self.root.iterdir()],
                     ['pydoc_topics'])

  def test_a_disk_that_fills_up(self):
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**15, limit[1]))
    try:
      with self.assertRaisesRegex(
          data.DataUnavailableError, '(?s)cannot be written: .*File too large'):
        data.load('digits', 'train', data_dir=self.root)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    self.assertEmpty(list(self.root.iterdir()))

  @pytest.mark.slow
  def test_two_processes_prepare_at_once(self):
    code = ('import sys\n'
            'from experiments import data\n'
            'examples = data.load(\n'
            '    "pydoc_topics", "test[:9]", data_dir=sys.argv[1])\n'
            'print(len(examples))\n')
    both = [subprocess.Popen(
        [sys.executable, '-c', code, str(self.root)], env=_environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)]
    for process in both:
      out, err = process.communicate()
      self.assertEqual((process.returncode, out), (0, '9\n'), err)
    self.assertEqual([path.name for path in self.root.iterdir()],
                     ['pydoc_topics'])

  def test_the_slower_of_two_takes_what_is_there(self):
    rename = os.rename

    def late(source, target):
      if '.preparing-' not in str(target):  # TFDS renames within the scratch.
        shutil.copytree(source, target)
      rename(source, target)

    with mock.patch.object(preparing.os, 'rename', late):
      examples = data.load('pydoc_topics', 'test', data_dir=self.root)
    self.assertNotEmpty(examples.arrays['tokens'])
    self.assertEmpty(list(self.root.glob('.preparing-*')))

  def test_it_is_announced_in_one_line(self):
    out, err = io.StringIO(), io.StringIO()
    with mock.patch('sys.stdout', out), mock.patch('sys.stderr', err):
      data.load('pydoc_topics', 'test', data_dir=self.root)
      data.load('pydoc_topics', 'test', data_dir=self.root)
    self.assertEqual(out.getvalue(), '')
    self.assertRegex(
        err.getvalue(),
        rf'\Apreparing pydoc_topics \(.*seconds\) in {self.root}.*\n\Z')

  def test_official_sets_are_prepared_as_array_record_by_tfds(self):
    class Builder(fakes.FakeMnist, skip_registration=True):
      name = 'mnist'

    def builder(name, **kwargs):
      self.assertEqual(kwargs['file_format'], 'array_record')
      return Builder(**kwargs)

    found = mock.patch.object(
        preparing.importlib.util, 'find_spec', lambda name: True)
    reached = mock.patch.object(
        preparing, 'network_fault', lambda host: None)
    with found, reached, mock.patch.object(tfds, 'builder', builder):
      self.assertLen(data.load('mnist', 'train', data_dir=self.root), 100)
    self.assertLen(
        data.load('mnist', 'test', data_dir=self.root, download=False), 30)

  def test_a_failing_download_is_told(self):
    failing = mock.Mock(side_effect=OSError('connection reset'))
    with mock.patch.object(preparing, '_obstacles', lambda *_: ([], [])), \
        mock.patch.object(tfds, 'builder', failing):
      with self.assertRaisesRegex(
          data.DataUnavailableError, 'connection reset'):
        data.load('mnist', 'train', data_dir=self.root)


if __name__ == '__main__':
  absltest.main()
