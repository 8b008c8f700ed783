"""The command line as a user meets it: one line, the culprit, an exit code."""

import errno
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from unittest import mock

import pytest
from absl.testing import absltest, parameterized

from experiments import holding
from experiments.common import cli

ROOT = pathlib.Path(__file__).parents[3]
# Says at exit which of these have been imported.
WATCHED = ('jax', 'flax', 'gradiv', 'optax', 'xarray', 'tensorflow_datasets',
           'experiments.data', 'experiments.models.building',
           'experiments.agreement_filtering.task')
WATCH = f'''
import atexit, runpy, sys
atexit.register(lambda: print("imported", *(
  name for name in {WATCHED} if name in sys.modules), file=sys.stderr))
sys.argv[0] = "main"
runpy.run_module("experiments.agreement_filtering", run_name="__main__")
'''
TINY = ('--steps=4', '--num_records=2', '--num_seeds=2', '--noise_rates=0,0.4',
        '--learning_rates=0.01', '--thresholds=0.9', '--combines=running_mean',
        '--model_options={"hidden": [4]}', '--nocompilation_cache')
# Wrong too, and said later: nothing is trained where a test fails.
NO_DATA = '--data_dir=gs://x'


class Case(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(
      self.enterContext(tempfile.TemporaryDirectory()))

  def go(self, *argv):
    """Run the paper in a folder of its own; return code, lines and imports."""
    done = subprocess.run(
      [sys.executable, '-c', WATCH, *argv], cwd=self.folder, text=True,
      capture_output=True, timeout=600, env=os.environ | {
        'PYTHONPATH': str(ROOT), 'TFDS_DATA_DIR': str(self.folder / 'data')})
    *self.errors, imported = done.stderr.splitlines()
    self.imported = imported.split()[1:]
    self.printed = done.stdout
    return done.returncode


class BadInputTest(Case):

  @parameterized.parameters(
    ('--learning_rate=0.1', 'Did you mean: learning_rates'),
    ('--num_seeds=abc', '--num_seeds=abc'),
    ('--learning_rates=0.1,x', '--learning_rates=0.1,x: must be'),
    ('--backend=tpu', '--backend=tpu'),
    ('--combines=running_mean,medain', '--combines=running_mean,medain: must'),
    ('--num_records=7', '--num_records=7: must be a divisor of --steps=1000'),
    ('--model=resnet50', '--model=resnet50'),
    ('--model_options={"hiden":[32]}', '--model_options=.*did you mean hidden'),
    ('--image_size=99999', '--image_size=99999: must be from 0 to'),
    ('--noise_rates=2', '--noise_rates=2.0: must be shares'))
  def test_flags(self, flag, message):
    self.assertEqual(self.go(flag), 2)
    self.assertLen(self.errors, 1)
    self.assertRegex(self.errors[0], message)
    self.assertEqual(self.imported, [])  # a tenth of a second
    self.assertFalse((self.folder / 'runs').exists())

  @parameterized.parameters(
    ('--dataset=cifr10', "^--dataset='cifr10': must be .*near it: cifar10"),
    ('--dataset=digits/8', "^--dataset='digits/8': must be 'digits'"),
    ('--data_dir=gs://x', "^--data_dir='gs://x': must be a local folder"))
  def test_data_that_there_are_not(self, flag, message):
    run = self.folder / 'runs' / 'agreement_filtering'
    run.mkdir(parents=True)
    (run / 'config.json').write_text('of the run that is there')
    self.assertEqual(self.go(flag), 2)
    self.assertLen(self.errors, 1)
    self.assertRegex(self.errors[0], message)
    self.assertNotIn('jax', self.imported)
    kept, = run.iterdir()  # a refused run leaves the folder as it was
    self.assertEqual(kept.read_text(), 'of the run that is there')

  # tests/experiments/agreement_filtering asks that within one process.
  @pytest.mark.slow
  def test_more_examples_than_there_are(self):
    self.assertEqual(self.go('--train_examples=99999'), 2)
    *announced, error = self.errors  # that digits are prepared
    self.assertLen(announced, 1)
    self.assertRegex(error, '^--train_examples=99999: must be at most the 1149 '
                     'of digits that are not held out$')
    self.assertNotIn('jax', self.imported)

  @parameterized.parameters('file', 'file/below', '/proc/x')
  def test_a_folder_that_cannot_be_written(self, name):
    (self.folder / 'file').write_text('')
    self.assertEqual(self.go(f'--workdir={name}'), 1)
    self.assertLen(self.errors, 1)
    self.assertRegex(self.errors[0], f"^--workdir='{name}' is no folder that")
    self.assertEqual(self.imported, [])

  def test_a_folder_of_another_program(self):
    (self.folder / 'config.json').write_text('{"program": "experiments.other"}')
    for more in ((), ('--report',)):
      self.assertEqual(self.go('--workdir=.', NO_DATA, *more), 1)
      self.assertEqual(self.errors, [
        "--workdir='.' holds a run of experiments.other: must be a folder of "
        'its own'])
      self.assertEqual(self.imported, [])
    self.assertLen(list(self.folder.iterdir()), 1)

  @parameterized.parameters(
    (('metrics.jsonl',), 'a run of engine.fit (metrics.jsonl)'),
    (('checkpoints', 'config.json'), 'a run of engine.fit (checkpoints)'),
    (('metrics.jsonl', 'checkpoints', 'lanes.json'),
     'a part of another run (metrics.jsonl, checkpoints)'))
  def test_a_folder_of_another_training(self, names, kind):
    for name in names:
      (self.folder / name).write_text('')
    (self.folder / 'report.html').write_text('theirs')
    for more in ((), ('--report',)):
      self.assertEqual(self.go('--workdir=.', NO_DATA, *more), 1)
      self.assertEqual(self.errors, [
        f"--workdir='.' holds {kind}: must be a folder of its own"])
      self.assertEqual(self.imported, [])
    self.assertLen(list(self.folder.iterdir()), len(names) + 1)
    self.assertEqual((self.folder / 'report.html').read_text(), 'theirs')

  def test_a_folder_that_is_in_use(self):
    (self.folder / 'summary.json').write_text('of the first')
    look = lambda: {path.name: (path.read_text(), path.stat().st_mtime_ns)
                    for path in self.folder.iterdir()}
    with holding.hold(self.folder):
      before = look()
      self.assertEqual(self.go('--workdir=.', NO_DATA), 1)
      self.assertEqual(look(), before)
    self.assertLen(self.errors, 1)
    self.assertRegex(self.errors[0], f'in use by process {os.getpid()} on')
    self.assertEqual(self.imported, [])

  @parameterized.parameters('full', 'closed')
  def test_without_a_place_for_messages_the_exit_code_stays(self, kind):
    command = [sys.executable, '-m', 'experiments.agreement_filtering',
               '--num_records=7']
    redirected = {'full': '2>/dev/full', 'closed': '2>&-'}[kind]
    code = subprocess.run(
      [*'sh -c'.split(), f'"$@" {redirected}', 'sh', *command], cwd=ROOT,
      timeout=60).returncode
    self.assertEqual(code, 2)

  def test_what_is_said_of_a_closed_stream_goes_into_no_file(self):
    code = ('import os\nfrom experiments.common import cli\nwith '
            'cli.exit_codes(), open("log", "w"):\n  os.write(2, b"by XLA")')
    done = subprocess.run(
      ['sh', '-c', '"$@" 2>&-', 'sh', sys.executable, '-c', code], timeout=60,
      cwd=self.folder, env=os.environ | {'PYTHONPATH': str(ROOT)})
    self.assertEqual(done.returncode, 0)
    self.assertEqual((self.folder / 'log').read_text(), '')

  def test_a_terminal_that_knows_few_letters(self):
    code = ('from experiments.common import cli\nwith cli.exit_codes():\n  '
            'print("1 \\u00b1 2")')
    done = subprocess.run(
      [sys.executable, '-c', code], cwd=ROOT, timeout=60, text=True,
      stdout=subprocess.PIPE, env=os.environ | {
        'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'})
    self.assertEqual((done.returncode, done.stdout), (0, '1 ? 2\n'))

  def test_a_disk_that_is_full_in_a_report_is_one_line(self):
    with mock.patch.object(sys, 'stderr', io.StringIO()):
      said = sys.stderr
      with self.assertRaises(SystemExit) as end, cli.exit_codes():
        raise OSError(errno.ENOSPC, 'No space left on device', 'a/summary.json')
    self.assertEqual(end.exception.code, 1)
    self.assertRegex(said.getvalue(), r"^.*No space left.*'a/summary.json'\n$")

  def test_a_report_of_nothing(self):
    self.assertEqual(self.go('--report', '--workdir=none'), 1)
    self.assertLen(self.errors, 1)
    self.assertRegex(self.errors[0], "^--workdir='none' holds no run")
    self.assertEqual(self.imported, [])
    self.assertFalse((self.folder / 'none').exists())


@pytest.mark.slow
class RunTest(Case):

  @parameterized.parameters('2>/dev/full', '2>&-')
  def test_a_signal_saves_where_nothing_can_be_said(self, redirected):
    command = [sys.executable, '-m', 'experiments.agreement_filtering', *TINY,
               '--steps=1000000', '--num_records=1000', '--workdir=run']
    with subprocess.Popen(
        ['sh', '-c', f'exec "$@" {redirected}', 'sh', *command],
        cwd=self.folder, env=os.environ | {
          'PYTHONPATH': str(ROOT), 'TFDS_DATA_DIR': str(self.folder / 'data')}
    ) as process:
      deadline = time.monotonic() + 300
      while not any(path.stat().st_size for path in self.folder.glob(
          'run/**/metrics.jsonl')):
        self.assertIsNone(process.poll())
        self.assertLess(time.monotonic(), deadline)
        time.sleep(0.05)
      process.send_signal(signal.SIGTERM)
      self.assertEqual(process.wait(120), 143)
    self.assertNotEmpty(list(self.folder.glob(
      'run/**/checkpoints/step_*/manifest.json')))

  def test_a_run_and_its_report(self):
    self.assertEqual(self.go(*TINY), 0)
    self.assertRegex(self.printed, r'\n[✓✗◐?]  .*\n(.*\n)*.* s in all\n$')
    run = self.folder / 'runs' / 'agreement_filtering'
    written = json.loads((run / 'config.json').read_text())
    self.assertEqual(written['command'], ['main', *TINY])
    self.assertEqual(written['flags']['steps'], 4)
    self.assertEqual(written['flags']['momentum'], 0.9)
    self.assertRegex(written['versions']['jax'], r'^\d+\.')
    self.assertNotEmpty(written['devices'])
    self.assertContainsSubset(['mean', 'running_mean'], written['parts'])

    stamps = {path: path.stat().st_mtime_ns
              for path in run.rglob('metrics.jsonl')}
    self.assertEqual(self.go('--report'), 0)
    self.assertEqual(self.imported, ['xarray'])
    self.assertEqual(stamps, {path: path.stat().st_mtime_ns for path in stamps})

    self.assertEqual(self.go('--report', '--num_seeds=3'), 1)
    self.assertLen(self.errors, 1)
    self.assertRegex(self.errors[0], 'lacks .* seed=2: run without --report')

    self.assertEqual(self.go(*TINY, '--momentum=0.5'), 1)
    self.assertIn('  momentum: stored 0.9, now 0.5', self.errors)
    self.assertEqual(json.loads((run / 'config.json').read_text()), written)


if __name__ == '__main__':
  absltest.main()
