"""What lies in a folder, finished, growing, or wrong."""

import json
import os
import pathlib
import socket
import tempfile

from absl.testing import absltest, parameterized

from experiments.report import lines, reading
from tests.experiments.report import folders


class ReadingTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enter_context(
      tempfile.TemporaryDirectory())) / 'mine'

  def test_a_fit(self):
    run = reading.read(folders.of_fit(self.folder))
    part, = run.parts
    self.assertEqual((part.step, part.steps, part.name), (8, 8, ''))
    self.assertEqual(part.advice, 'batch 64 is far below B_S')
    self.assertEqual(part.numerics, {'jax': '9.9'})
    self.assertFalse(run.is_running)

  def test_a_study_has_the_parts_of_the_first_rounding(self):
    run = reading.read(folders.of_study(self.folder))
    self.assertEqual([part.name for part in run.parts],
                     ['sweep/batch_16', 'sweep/batch_8'])
    self.assertEqual(run.parts[0].steps, 4)
    self.assertLen(run.claims, 2)

  def test_a_half_written_line_is_left_out(self):
    folders.of_fit(self.folder, is_done=False)
    path = self.folder / 'metrics.jsonl'
    whole = path.read_bytes()
    for end in (b'{"step": 9, "lo', b'{"step": 9, \x00\x00\x00"loss": 1}\n'):
      path.write_bytes(whole + end)
      run = reading.read(self.folder)
      self.assertEqual(run.parts[0].step, 8)
      self.assertTrue(run.is_running)

  def test_a_lock_of_a_process_that_is_gone_is_none(self):
    folders.of_study(self.folder)
    for pid, is_there in ((os.getpid(), True), (2**22 + 7, False)):
      (self.folder / '.lock').write_text(
        f'process {pid} on {socket.gethostname()}')
      self.assertEqual(reading.read(self.folder).is_running, is_there)
    (self.folder / '.lock').write_text('process 1 on another-host')
    self.assertTrue(reading.read(self.folder).is_running)

  @parameterized.named_parameters(
    ('missing', lambda folder: None, 'is no folder'),
    ('empty_folder', lambda folder: folder.mkdir(), 'not the folder of a run'),
    ('a_file', lambda folder: folder.write_text(''), 'is no folder'),
    ('no_records', lambda folder: folders.write_lines(
      folder / 'metrics.jsonl', []), 'holds no records yet'),
    ('no_json', lambda folder: folders.of_study(folder) and (
      folder / 'config.json').write_text('{'), 'config.json is no JSON'),
    ('old_config', lambda folder: folders.write(
      folders.of_study(folder) / 'config.json', {'rate': 1}),
     'another version: it lacks flags'),
    ('old_claims', lambda folder: folders.write(
      folders.of_study(folder) / 'claims.json', {'claims': [{'key': 'a'}]}),
     'another version: it lacks text, measured, allowed, verdict'),
    ('claims_without_interval', lambda folder: folders.write(
      folders.of_study(folder) / 'claims.json', {'claims': [{
        'key': 'a', 'text': '', 'measured': [1], 'allowed': [0, 1],
        'verdict': 'open'}]}), 'another version: claim a has no interval'),
    ('old_records', lambda folder: folders.write_lines(
      folder / 'metrics.jsonl', [{'t': 1}, {'t': 2}]),
     'metrics.jsonl:1 is no record of this version'))
  def test_what_is_wrong_is_said_in_a_line(self, make, message):
    make(self.folder)
    with self.assertRaisesRegex(reading.NoReportError, message) as caught:
      reading.read(self.folder)
    self.assertNotIn('\n', str(caught.exception))

  def test_a_folder_of_runs_names_them(self):
    folders.of_fit(self.folder)
    with self.assertRaisesRegex(reading.NoReportError, 'those in it are mine'):
      reading.read(self.folder.parent)

  def test_long_logs_are_thinned_and_evaluations_kept(self):
    rows = [{'step': i, 'loss': 1. / (i + 1)} | (
      {'accuracy': 0.5} if i % 100 == 7 else {}) for i in range(1001)]
    folders.write_lines(self.folder / 'metrics.jsonl', rows)
    kept = lines.read(self.folder / 'metrics.jsonl', 20)
    self.assertLen(kept, 30)
    self.assertEqual([row['step'] for row in kept if 'accuracy' in row],
                     list(range(7, 1001, 100)))
    self.assertEqual((kept[0]['step'], kept[-1]['step']), (0, 1000))
    self.assertLen(lines.read(self.folder / 'metrics.jsonl'), 1001)

  def test_advice_of_the_first_of_several_trainings(self):
    folders.of_fit(self.folder)
    folders.write(self.folder / 'advice.json', {'sentence': 'x', 'lanes': 8})
    part, = reading.read(self.folder).parts
    self.assertEqual(part.advice, 'training 1 of 8: x')

  def test_times_of_another_version_are_left_out(self):
    folders.of_fit(self.folder)
    folders.write_lines(self.folder / 'timing.jsonl', [{'step': 1, 'rate': 2}])
    self.assertEmpty(reading.read(self.folder).parts[0].timing)

  def test_few_are_picked_evenly(self):
    folders.of_fit(self.folder)
    path = self.folder / 'metrics.jsonl'
    steps = [json.loads(line)['step'] for line in path.read_text().split('\n')
             if line]
    self.assertEqual([row['step'] for row in lines.read(path, 3)],
                     [steps[0], steps[4], steps[8]])


if __name__ == '__main__':
  absltest.main()
