"""Tests of the log: equal bytes, exact cuts, full disks."""

import contextlib
import errno
import io
import json
import math
import os
import resource
import subprocess
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from experiments.engine import records


@contextlib.contextmanager
def small_disk(folder, num_bytes):
  """Let no file in the folder grow past about this size; yields 'give room'.

  A tmpfs where we may mount one, else a limit on the size of any file.
  """
  mount = ['mount', '-t', 'tmpfs', '-o', f'size={num_bytes}', 'none', folder]
  try:
    mounted = subprocess.run(mount, capture_output=True).returncode == 0
  except OSError:
    mounted = False
  ballast = os.path.join(folder, 'ballast')
  old = resource.getrlimit(resource.RLIMIT_FSIZE)
  with contextlib.ExitStack() as stack:
    if mounted:
      with open(ballast, 'wb') as file:
        file.write(bytes(num_bytes // 2))
      stack.callback(subprocess.run, ['umount', '-l', folder], check=True)
      yield lambda: os.remove(ballast)
    else:
      give_room = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, old)
      resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes // 2, old[1]))
      stack.callback(give_room)
      yield give_room


class FullDisk:
  """Stands in for `os.write`: writes `room` bytes, then fails."""

  def __init__(self, room, code=errno.ENOSPC):
    self.room = room
    self.code = code
    self.write = os.write

  def __call__(self, file, data):
    if self.room <= 0:
      raise OSError(self.code, os.strerror(self.code))
    # Half of what is asked for, as a real disk does just before it is full.
    written = self.write(file, data[:min(self.room, max(1, len(data) // 2))])
    self.room -= written
    return written


class RecordsCase(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    folder = tempfile.TemporaryDirectory()
    self.addCleanup(folder.cleanup)
    self.folder = folder.name
    self.path = os.path.join(self.folder, 'metrics.jsonl')
    self.stderr = io.StringIO()
    self.enterContext(contextlib.redirect_stderr(self.stderr))

  def text(self):
    with open(self.path, encoding='utf-8') as file:
      return file.read()

  def write(self, steps, **kwargs):
    with records.Records(self.path, **kwargs) as log:
      for step in steps:
        log.write(step, loss=step / 2)

  def steps(self):
    return [record['step'] for record in records.read(self.path)]


class RecordsTest(RecordsCase):

  @parameterized.parameters(
      (0.5, '0.5'),
      (0.1, '0.10000000149011612'),
      (np.float32(0.1), '0.10000000149011612'),
      (jnp.float32(0.1), '0.10000000149011612'),
      (jnp.bfloat16(0.1), '0.10009765625'),
      (np.float64(1e300), '1e+300'), (1e-300, '1e-300'), (-0.0, '-0.0'),
      (2 ** 70, str(2 ** 70)), (np.int64(-3), '-3'), (jnp.uint32(7), '7'),
      (True, 'true'), (np.bool_(False), 'false'), (None, 'null'),
      (math.nan, 'null'), (jnp.float32(jnp.nan), 'null'),
      (math.inf, '"inf"'),
      (jnp.bfloat16(-jnp.inf), '"-inf"'),
      ('text "\n', r'"text \"\n"'),
      (np.array([[1.5, np.nan], [np.inf, -np.inf]]),
       '[[1.5, null], ["inf", "-inf"]]'),
      (jnp.arange(3), '[0, 1, 2]'),
      (np.zeros((0, 2)), '[]'),
      ([jnp.float32(1), (2, None)], '[1.0, [2, null]]'),
      ({'a': np.float32(2)}, '{"a": 2.0}'),
  )
  def test_values(self, value, text):
    with records.Records(self.path) as log:
      log.write(jnp.int32(4), value=value)
    self.assertEqual(self.text(), f'{{"step": 4, "value": {text}}}\n')

  @parameterized.named_parameters(
      ('complex', 1j), ('object', object()), ('set', {1}),
      ('ragged', [np.array(1j)]), ('key', jax.random.key(0)))
  def test_values_that_json_cannot_hold(self, value):
    with records.Records(self.path) as log:
      with self.assertRaisesRegex(TypeError, '(?s)^loss is .*allowed: numbers'):
        log.write(1, loss=value)
      log.write(2)
    self.assertEqual(self.steps(), [2])

  @parameterized.parameters((-1, ValueError), (1.5, TypeError))
  def test_bad_steps(self, step, error):
    with records.Records(self.path) as log:
      with self.assertRaises(error):
        log.write(step)
    self.assertEqual(self.text(), '')

  def test_read_returns_what_was_written(self):
    with records.Records(self.path) as log:
      log.write(1, a=math.inf, b=[-math.inf, 1], c=math.nan, d='x', e={'f': 2})
    self.assertEqual(records.read(self.path), [
        {'step': 1, 'a': math.inf, 'b': [-math.inf, 1], 'c': None, 'd': 'x',
         'e': {'f': 2}}])

  def test_each_record_is_on_disk_when_write_returns(self):
    with records.Records(self.path) as log:
      for step in range(3):
        log.write(step)
        self.assertEqual(self.steps(), list(range(step + 1)))

  def test_equal_runs_give_equal_bytes(self):
    texts = []
    for _ in range(2):
      with records.Records(self.path, keep_through=-1) as log:
        for step in range(5):
          log.write(step, loss=jnp.exp(jnp.float32(-step)), n=step)
      texts.append(self.text())
    self.assertEqual(*texts)

  @parameterized.parameters(
      (None, [0, 1, 2, 3, 4]), (2, [0, 1, 2]), (9, [0, 1, 2, 3, 4]),
      (0, [0]), (-1, []))
  def test_resume_keeps_through(self, keep_through, steps):
    self.write(range(5))
    whole = self.text()
    self.write([], keep_through=keep_through)
    self.assertEqual(self.steps(), steps)
    self.assertTrue(whole.startswith(self.text()))
    self.write(range(len(steps), 5))
    self.assertEqual(self.text(), whole)

  def test_resume_when_steps_are_out_of_order(self):
    self.write([1, 5, 2, 6, 3])
    self.write([4], keep_through=3)
    self.assertEqual(self.steps(), [1, 2, 3, 4])
    self.assertEqual(os.listdir(self.folder), ['metrics.jsonl'])

  def test_every_truncation_leaves_the_whole_records(self):
    self.write(range(3))
    whole = self.text()
    ends = [i + 1 for i, c in enumerate(whole) if c == '\n']
    for size in range(len(whole) + 1):
      with open(self.path, 'w', encoding='utf-8') as file:
        file.write(whole[:size])
      kept = [step for step in range(3) if ends[step] <= size]
      self.assertEqual(self.steps(), kept)
      self.write([7])
      self.assertEqual(self.steps(), kept + [7])

  def test_a_hole_in_the_last_line(self):
    self.write([1, 2])
    with open(self.path, 'ab') as file:
      file.write(b'{"step":\0\0\0\0\n')
    self.assertEqual(self.steps(), [1, 2])
    self.write([3])
    self.assertEqual(self.steps(), [1, 2, 3])

  @parameterized.parameters('{"step": 2, "lo', '[1]', '{"loss": 1}', '', '7',
                            '{"step": "2"}', '\0\0')
  def test_a_bad_line_in_the_middle(self, line):
    text = f'{{"step": 1}}\n{line}\n{{"step": 3}}\n'
    with open(self.path, 'w', encoding='utf-8') as file:
      file.write(text)
    with self.assertRaisesRegex(ValueError, r'metrics\.jsonl:2: no record'):
      records.read(self.path)
    with self.assertRaisesRegex(ValueError, r'metrics\.jsonl:2: no record'):
      records.Records(self.path, keep_through=3)
    self.assertEqual(self.text(), text)
    self.write([1], keep_through=-1)
    self.assertEqual(self.steps(), [1])

  def test_missing_folder_and_closed_log(self):
    path = os.path.join(self.folder, 'a', 'b.jsonl')
    with records.Records(path) as log:
      log.write(1)
    log.close()
    with self.assertRaisesRegex(ValueError, 'b.jsonl is closed'):
      log.write(2)
    self.assertLen(records.read(path), 1)


class FullDiskTest(RecordsCase):

  @parameterized.product(
      room=(0, 1, 21, 22, 23, 30, 60),
      code=(errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
  def test_no_record_is_cut_and_none_is_lost(self, room, code):
    log = records.Records(self.path)
    with mock.patch.object(os, 'write', FullDisk(room, code)) as disk:
      for step in range(4):
        log.write(step, loss=0.5)
        self.assertEqual(self.steps(), list(range(len(self.steps()))))
        self.assertTrue(self.text() == '' or self.text()[-1] == '\n')
      log.sync()
      self.assertLess(len(self.steps()), 4)
      disk.room = 1000
      log.sync()
      self.assertEqual(self.steps(), [0, 1, 2, 3])
      disk.room = 0
      log.write(4)
    log.write(5)
    log.close()
    self.assertEqual(self.steps(), [0, 1, 2, 3, 4, 5])
    self.assertEqual(self.stderr.getvalue().count('\n'), 1)
    self.assertIn(os.strerror(code), self.stderr.getvalue())
    self.assertIn(self.path, self.stderr.getvalue())

  def test_memory_is_bounded_and_the_loss_is_said(self):
    log = records.Records(self.path)
    with (mock.patch.object(records, '_MAX_WAITING', 3),
          mock.patch.object(os, 'write', FullDisk(30))):
      for step in range(7):
        log.write(step)
    log.close()
    self.assertEqual(self.steps(), [0, 1, 4, 5, 6])
    self.assertIn('2 records were lost', self.stderr.getvalue())

  def test_other_errors_are_raised_and_cut_nothing(self):
    log = records.Records(self.path)
    log.write(1)
    with mock.patch.object(os, 'write', FullDisk(5, errno.EIO)):
      with self.assertRaisesRegex(OSError, 'Input/output'):
        log.write(2)
    self.assertEqual(self.steps(), [1])
    log.close()
    self.assertEqual(self.steps(), [1, 2])

  def test_fsync_on_a_full_disk(self):
    with records.Records(self.path) as log:
      log.write(1)
      error = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
      with mock.patch.object(os, 'fsync', side_effect=error):
        log.sync()
    self.assertIn('training goes on', self.stderr.getvalue())

  def test_a_real_full_disk(self):
    size = 64 * 1024
    with small_disk(self.folder, size) as give_room:
      log = records.Records(self.path)
      for step in range(60):
        log.write(step, noise='x' * 1000)
      written = self.steps()
      self.assertEqual(written, list(range(len(written))))
      self.assertBetween(len(written), 10, 40)
      give_room()
      log.write(60)
      log.close()
      self.assertEqual(self.steps(), list(range(61)))
      self.assertEqual(self.stderr.getvalue().count('\n'), 1)
      self.assertTrue(all(map(json.loads, self.text().splitlines())))

  def test_resume_on_a_full_disk(self):
    with small_disk(self.folder, 64 * 1024):
      log = records.Records(self.path)
      for step in range(60):
        log.write(step, noise='x' * 1000)
      log.close()
      self.assertIn('records were lost', self.stderr.getvalue())
      self.write([6], keep_through=5)
      self.assertEqual(self.steps(), [0, 1, 2, 3, 4, 5, 6])


if __name__ == '__main__':
  absltest.main()
