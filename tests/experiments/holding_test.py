"""One run a folder: the second is refused, a dead one's place is taken."""

import contextlib
import errno
import fcntl
import io
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from unittest import mock

from absl.testing import absltest, parameterized

from experiments import holding

ROOT = pathlib.Path(__file__).parents[2]
HOLDER = '''
import sys, time
from experiments import holding
with holding.hold(sys.argv[1]):
  print('held', flush=True)
  time.sleep(600)
'''


class HoldingTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = self.enterContext(tempfile.TemporaryDirectory())

  def other(self):
    """Let another process hold the folder."""
    process = subprocess.Popen(
      [sys.executable, '-c', HOLDER, self.folder], text=True, cwd=ROOT,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    self.addCleanup(process.communicate)
    self.addCleanup(process.kill)
    self.assertEqual(process.stdout.readline(), 'held\n')
    return process

  def hold(self):
    """Hold the folder for a moment; return what is said."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
      with holding.hold(self.folder):
        pass
    return said.getvalue()

  def test_the_second_is_refused_and_told_who_is_first(self):
    process = self.other()
    with self.assertRaisesRegex(
        holding.InUseError, f'{self.folder} is in use by process {process.pid}'
        ' on .+: wait for it'):
      self.hold()

  @parameterized.parameters(signal.SIGKILL, signal.SIGTERM)
  def test_the_place_of_a_dead_process_is_taken_and_that_is_said(self, signum):
    process = self.other()
    process.send_signal(signum)
    process.wait()
    self.assertRegex(
      self.hold(), f'was left by process {process.pid} on .*, which is gone')
    self.assertEqual(self.hold(), '')
    self.assertEmpty(os.listdir(self.folder))

  def test_an_end_by_an_error_leaves_nothing_to_say(self):
    with self.assertRaises(KeyError), holding.hold(self.folder):
      raise KeyError
    self.assertEqual(self.hold(), '')

  def test_a_file_that_was_removed_since_it_was_opened(self):
    real, opened = os.open, []

    def late(path, *args):
      file = real(path, *args)
      if not opened:  # its holder ends in between
        os.unlink(path)
      opened.append(file)
      return file

    with mock.patch.object(os, 'open', late), holding.hold(self.folder):
      self.assertLen(opened, 2)
      with self.assertRaises(holding.InUseError):
        self.hold()

  def test_a_file_system_without_locks(self):
    refuse = mock.Mock(side_effect=OSError(errno.ENOLCK, 'No locks available'))
    with mock.patch.object(fcntl, 'flock', refuse):
      self.assertIn('cannot be locked (No locks available)', self.hold())

  def test_a_full_disk(self):
    refuse = mock.Mock(side_effect=OSError(errno.ENOSPC, 'No space left'))
    with mock.patch.object(os, 'pwrite', refuse):
      self.assertEqual(self.hold(), '')


if __name__ == '__main__':
  absltest.main()
