"""Tests of saves that are killed: what is restored is always whole."""

import contextlib
import io
import itertools
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
from absl.testing import absltest

from experiments.engine import checkpoints

ROOT = pathlib.Path(__file__).parents[3]
TEMPLATE = {'params': np.zeros((64, 64), np.float32), 'step': 0}
# Each line on stdin is a folder and a number, for a child that saves there:
# for ever, to be killed from outside; or once, and it kills itself at that
# call on a file. Forked from one process, so that the imports are paid once.
VICTIM = '''
import os, sys
import numpy as np
import orbax.checkpoint
from experiments.engine import checkpoints

CALLS = ('open', 'os.mkdir', 'os.rename', 'os.remove', 'os.rmdir',
         'shutil.copytree')

def save(store, step):
  state = {'params': np.full((64, 64), step, np.float32), 'step': step}
  store.save(step, state, {'step': step})

def save_for_ever(store):
  template = {'params': np.zeros((64, 64), np.float32), 'step': 0}
  restored = store.restore(template)
  step = 0 if restored is None else restored.step
  while True:
    step += 1
    save(store, step)
    print('saved', step, flush=True)

def save_once(store, left):
  def count(event, args):
    nonlocal left
    # Of what shutil.rmtree does, only the name is known.
    if event in CALLS and (str(store.directory) in str(args[0])
                           or event in ('os.remove', 'os.rmdir')):
      left -= 1
      if not left:
        os.kill(os.getpid(), 9)

  sys.addaudithook(count)
  save(store, store.steps()[-1] + 1)
  os._exit(0)

for line in sys.stdin:
  folder, left = line.rsplit(maxsplit=1)
  if not (child := os.fork()):
    store = checkpoints.Checkpoints(folder)
    save_once(store, int(left)) if int(left) else save_for_ever(store)
  print('child', child, flush=True)
  _, status = os.waitpid(child, 0)
  print('dead', os.waitstatus_to_exitcode(status), flush=True)
'''


class KillTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
    self.folder = self.root / 'checkpoints'
    self.stderr = io.StringIO()
    self.enterContext(contextlib.redirect_stderr(self.stderr))
    self.victim = self.enterContext(subprocess.Popen(
      [sys.executable, '-c', VICTIM], cwd=ROOT, text=True,
      stdin=subprocess.PIPE, stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL))
    self.addCleanup(self.victim.stdin.close)

  def begin(self, folder, left):
    """Let a child save in a folder; return its process id."""
    print(folder, left, file=self.victim.stdin, flush=True)
    return int(self.hear('child'))

  def hear(self, word):
    """Return what the victim says behind a word."""
    said, value = self.victim.stdout.readline().split()
    self.assertEqual(said, word)
    return value

  def restored(self, folder):
    """Restore the newest state, which must be whole; return its step."""
    restored = checkpoints.Checkpoints(folder).restore(TEMPLATE)
    self.assertEqual(restored.state['step'], restored.step)
    np.testing.assert_array_equal(restored.state['params'], restored.step)
    self.assertNotIn('damaged', self.stderr.getvalue())
    return restored.step

  def test_kills_at_any_moment(self):
    rng = random.Random(0)
    partials = 0
    for _ in range(15):
      child = self.begin(self.folder, 0)
      newest = int(self.hear('saved'))
      time.sleep(rng.uniform(0, 0.1))
      os.kill(child, signal.SIGKILL)
      while (line := self.victim.stdout.readline().split())[0] == 'saved':
        newest = int(line[1])
      partials += bool(list(self.folder.glob('*.partial')))
      # The kill may fall between a commit and the word of it.
      self.assertIn(self.restored(self.folder), (newest, newest + 1))
    self.assertGreater(partials, 3)

  @pytest.mark.slow
  def test_a_kill_at_each_call_on_a_file(self):
    before = checkpoints.Checkpoints(self.folder)
    for step in (1, 2):
      before.save(step, TEMPLATE | {
        'params': np.full((64, 64), step, np.float32), 'step': step}, {})
    found = []
    for left in itertools.count(1):
      copy = self.root / f'copy_{left}'
      shutil.copytree(self.folder, copy)
      self.begin(copy, left)
      code = int(self.hear('dead'))
      found.append(self.restored(copy))
      if not code:
        break
      self.assertEqual(code, -signal.SIGKILL)
      # And the run goes on from there, over all that was left.
      self.begin(copy, 10**6)
      self.assertEqual(self.hear('dead'), '0')
      self.assertEqual(self.restored(copy), found[-1] + 1)
      self.assertEmpty([x.name for x in copy.iterdir() if x.suffix])
    self.assertEqual(found, sorted(found))
    self.assertEqual(set(found), {2, 3})
    self.assertGreater(len(found), 20)


if __name__ == '__main__':
  absltest.main()
