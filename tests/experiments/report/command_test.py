"""The command: pages, exit codes, and views that follow a run."""

import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

from absl.testing import absltest, parameterized
from rich.console import Console

from experiments import report
from experiments.report import __main__ as command, live, reading, terminal
from tests.experiments.report import folders


class CommandTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enter_context(
      tempfile.TemporaryDirectory())) / 'mine'

  def call(self, *argv):
    """Return the exit code, and what was printed."""
    with (contextlib.redirect_stdout(io.StringIO()) as out,
          contextlib.redirect_stderr(io.StringIO()) as err):
      try:
        command.main([str(x) for x in argv])
        code = 0
      except SystemExit as stopped:
        code = stopped.code
    return code, out.getvalue(), err.getvalue()

  def test_writes_the_page(self):
    folders.of_fit(self.folder)
    code, out, _ = self.call(self.folder)
    self.assertEqual((code, out.strip()),
                     (0, str(self.folder / 'report.html')))
    self.assertEndsWith((self.folder / 'report.html').read_text(), '</html>\n')
    self.assertEmpty(list(self.folder.glob('.*')))  # nothing half written

  def test_two_runs(self):
    folders.of_fit(self.folder)
    other = folders.of_fit(self.folder.with_name('other'))
    out = self.folder / 'here.html'
    self.assertEqual(self.call(self.folder, other, f'--out={out}')[0], 0)
    self.assertIn('mine and other', out.read_text())

  @parameterized.parameters(
    (('{}',), 'is no folder'), (('{}', '--what'), 'unrecognized'),
    ((), 'required'), (('a', 'b', 'c'), '3 folders: must be one or two'),
    (('a', 'b', '--live'), 'show one run'),
    (('a', '--every=0', '--live'), 'at least 0.1'),
    (('a', '--every=nan', '--live'), 'at least 0.1'))
  def test_bad_input_is_a_line_and_code_2(self, argv, message):
    code, out, err = self.call(*(x.format(self.folder) for x in argv))
    self.assertEqual((code, out, err.count('\n')), (2, '', 1))
    self.assertIn(message, err)

  def test_starts_without_jax(self):
    folders.of_fit(self.folder)
    program = (
      'import sys; from experiments.report import __main__ as command; '
      f'command.main([{str(self.folder)!r}]); '
      'print([x for x in ("jax", "matplotlib", "scipy") if x in sys.modules])')
    done = subprocess.run([sys.executable, '-c', program], text=True,
                          capture_output=True, check=True)
    self.assertEqual(done.stdout.split('\n')[1], '[]')

  def test_at_the_end_nothing_stops_what_was_trained(self):
    with contextlib.redirect_stderr(io.StringIO()) as err:
      report.write_at_end(self.folder)
    self.assertStartsWith(err.getvalue(), f'no {self.folder}/report.html: ')
    folders.of_fit(self.folder, is_done=False)
    with contextlib.redirect_stderr(io.StringIO()) as err:
      report.write_at_end(self.folder)
    self.assertEqual(err.getvalue(), f'report: {self.folder}/report.html\n')

  def test_at_the_end_a_page_is_written_where_it_is_old(self):
    path = self.folder / 'report.html'
    folders.of_fit(self.folder)
    with contextlib.redirect_stderr(io.StringIO()):
      report.write_at_end(self.folder)
      first = path.stat().st_mtime_ns
      report.write_at_end(self.folder)
      self.assertEqual(path.stat().st_mtime_ns, first)
      folders.write_lines(self.folder / 'metrics.jsonl', [
        {'step': 0, 'new': 1.}, {'step': 1, 'new': 2.}])
      report.write_at_end(self.folder)
    self.assertIn('new', path.read_text())
    self.assertGreater(path.stat().st_mtime_ns, first)


class LiveTest(absltest.TestCase):

  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.enter_context(
      tempfile.TemporaryDirectory()))
    folders.of_fit(self.folder, is_done=False)
    self.log = self.folder / 'metrics.jsonl'

  def test_follows_to_the_end(self):
    """Each look meets another state; also one that cannot be read."""
    rows = self.log.read_text().splitlines(keepends=True)
    self.log.write_text('')
    states = [
      ''.join(rows[:1]), ''.join(rows[:2]) + rows[2][:30], 'no record\n' * 2,
      ''.join(rows)]
    seen = []

    def sleep(seconds):
      self.assertEqual(seconds, 3.)
      self.log.write_text(states.pop(0))
      if not states:
        (self.folder / 'metrics.jsonl.sha256').write_text('')

    with contextlib.redirect_stderr(io.StringIO()) as err:
      live.follow(self.folder, lambda run: seen.append(
        run.parts[0].step if run.parts[0].rows else None), 3., sleep)
    self.assertEqual(seen, [None, 0, 1, 1, 8])
    self.assertIn('at the next look again', err.getvalue())

  def test_the_page_is_whole_at_any_time(self):
    page, stop = self.folder / 'report.html', threading.Event()
    pages = []

    def look():
      """Read on until three pages were seen, for half a minute at most."""
      end = time.monotonic() + 30
      while len(pages) < 3 and time.monotonic() < end:
        with contextlib.suppress(FileNotFoundError):
          text = page.read_text()
          if text not in pages[-1:]:
            pages.append(text)
        time.sleep(0.001)
      stop.set()

    def train():
      step = 8
      while not stop.is_set():
        step += 1
        line = json.dumps({'step': step, 'loss': 1.}) + '\n'
        with open(self.log, 'a') as file:
          for half in (line[:9], line[9:]):
            file.write(half)
            file.flush()
            time.sleep(0.002)
      (self.folder / 'metrics.jsonl.sha256').write_text('')

    others = [threading.Thread(target=x) for x in (look, train)]
    for other in others:
      other.start()
    with contextlib.redirect_stdout(io.StringIO()):
      command.main([str(self.folder), '--live', '--every=0.1'])
    for other in others:
      other.join()
    self.assertLen(set(pages), 3)
    for text in pages:
      self.assertEndsWith(text, '</html>\n')
    self.assertIn('http-equiv', pages[0])
    self.assertNotIn('http-equiv', page.read_text())


class TerminalTest(absltest.TestCase):

  def shown(self, make):
    with tempfile.TemporaryDirectory() as folder:
      run = reading.read(make(pathlib.Path(folder) / 'mine'))
    console = Console(file=io.StringIO(), width=160)
    terminal.show(run, console)
    return console.file.getvalue()

  def test_a_fit(self):
    text = self.shown(folders.of_fit)
    self.assertIn('batch 64 is far below B_S', text)
    self.assertRegex(text, r'mine\s+8\s+0\.00391\s+█▇▆▅▅▄▃▂▁\s+0\.998\s+361\s')

  def test_a_study(self):
    text = self.shown(folders.of_study)
    self.assertRegex(text, r'✓\s+less is more <script>.*1\.5 × \[1\.25, 1\.75')
    self.assertRegex(text, r'sweep/batch_16\s+4 ')

  def test_as_a_command(self):
    with (tempfile.TemporaryDirectory() as folder,
          contextlib.redirect_stdout(io.StringIO()) as out):
      folders.of_fit(pathlib.Path(folder))
      command.main([folder, '--terminal', '--live'])
      self.assertFalse(os.path.exists(f'{folder}/report.html'))
    self.assertIn('far below B_S', out.getvalue())


if __name__ == '__main__':
  absltest.main()
