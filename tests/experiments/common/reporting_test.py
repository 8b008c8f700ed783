"""A report: what it imports, what it draws, and two processes at once."""

import pathlib
import subprocess
import sys
import tempfile
import textwrap
from unittest import mock

from absl.testing import absltest, parameterized

from experiments.common import beside, plots
from tests.experiments import presets, study_run
from tests.experiments.common.tiny_study import Config, Tiny

ROOT = pathlib.Path(__file__).parents[3]


def python(code, *argv):
  """Run code in a process of its own; return what it printed."""
  return subprocess.run(
    [sys.executable, '-c', textwrap.dedent(code), *argv], cwd=ROOT, text=True,
    capture_output=True, check=True, timeout=600).stdout


class ImportsTest(absltest.TestCase):

  def test_no_report_imports_what_trains(self):
    """The studies of all papers, and all that draws."""
    printed = python('''
      import pkgutil, sys
      from experiments.common import reporting
      studies = [pkgutil.resolve_name(name)() for name in sys.argv[1:]]
      slow = "jax", "gradiv", "flax", "optax", "experiments.engine.trainer"
      print(*(x for x in (*slow, "matplotlib") if x in sys.modules))
      for study in studies:
        for name in study.figures.values():
          pkgutil.resolve_name(name)
      print(*(x for x in slow if x in sys.modules))
      print(len(studies), sum(len(study.figures) for study in studies))
      ''', *presets.STUDIES)
    first, second, counts = printed.split('\n')[:3]
    self.assertEqual((first, second), ('', ''))
    self.assertEqual(counts, '8 28')


class BesideTest(parameterized.TestCase):

  @parameterized.parameters(('', 'forked'), ('import jax', 'here'))
  def test_jobs_are_forked_where_jax_is_not_loaded(self, begin, where):
    printed = python(f'''
      import os
      {begin}
      from experiments.common import beside
      here = os.getpid()
      done = beside.each([lambda i=i: (i, os.getpid()) for i in range(5)],
                         lambda: print("meanwhile", os.getpid() == here))
      print(*(i for i, _ in done))
      print("here" if {{pid for _, pid in done}} == {{here}} else
            "forked" if here not in {{pid for _, pid in done}} else "both")
      ''')
    if beside.cores() < 2:
      where = 'here'
    self.assertEqual(
      printed.split('\n')[:3], ['meanwhile True', '0 1 2 3 4', where])

  def test_an_error_in_another_process_is_raised_here(self):
    printed = python('''
      from experiments.common import beside
      from experiments.engine.identity import OtherRunError
      def fail():
        raise OtherRunError("two\\nlines")
      try:
        beside.each([int, fail])
      except OtherRunError as error:
        print(repr(str(error)))
      ''')
    self.assertEqual(printed, "'two\\nlines'\n")


class FiguresTest(absltest.TestCase):

  def test_only_what_has_changed_is_drawn(self):
    folder = pathlib.Path(
      self.enterContext(tempfile.TemporaryDirectory())) / 'run'
    config = Config(workdir=str(folder), batch_sizes=(2,), num_seeds=2)
    study_run.run(Tiny(), config)
    path = folder / 'claims.png'
    first = path.read_bytes()
    save = self.enterContext(
      mock.patch.object(plots, 'save', wraps=plots.save))

    def drawn(**changed):
      save.reset_mock()
      _, printed = study_run.run(
        Tiny(), Config(**vars(config) | changed), is_report=True)
      self.assertIn(str(path), printed)
      self.assertEqual('(up to date)' in printed, not save.called)
      return save.called

    self.assertFalse(drawn())
    path.write_bytes(b'other')
    self.assertTrue(drawn())
    path.unlink()
    self.assertTrue(drawn())
    self.assertEqual(path.read_bytes(), first)
    self.assertFalse(drawn(save_seconds=config.save_seconds))
    self.assertTrue(drawn(target=8.))
    self.assertFalse(drawn(target=8.))
    with mock.patch('experiments.versions.sources', lambda: 'new'):
      self.assertTrue(drawn(target=8.))
      self.assertFalse(drawn(target=8.))
    count = folder / 'count.json'
    count.write_text(count.read_text().replace('2', '3'))
    self.assertTrue(drawn(target=8.))


if __name__ == '__main__':
  absltest.main()
